package broker

// lockName is the file in a data folder that a process holds.
const lockName = "lock"

// releaser gives a lock back.
type releaser interface{ release() error }
