// Package fulldisk lets a bundled broker fill its disk up and looks whether what it
// promises for that is so.
//
// The broker is a process of the real binary, its disk a tmpfs of 24 MB. Clients
// produce, commit and run transactions until each of these is refused. Then
// everything that was acknowledged must be there to be read, also after the broker
// was killed, and after it was stopped, and started again on the full disk; when a
// topic is deleted service must return by itself, with everything as it was.
//
// It is built with the tag fulldisk, needs Linux and root, for mount, and fails
// without:
//
//	go test -tags fulldisk -count=1 -timeout 10m -v ./test/fulldisk
package fulldisk
