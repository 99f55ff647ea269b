package broker

// releaser gives a lock back.
type releaser interface{ release() error }
