package lineage

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
)

// A cursor is where a page of a list ended, as callers carry it about: the key of what was
// looked at last, which may be of somebody, or of a topic, that the page does not show. So
// it is sealed for those who may not see everything, its length too, and holds for this
// process only.
const (
	plainCursor  = 0
	sealedCursor = 1
)

const (
	// maxCursor bounds what is read as one: the names in a key are shorter.
	maxCursor = 1 << 17
	// cursorStep is of what length sealed cursors are a multiple.
	cursorStep = 256
)

var cursorSeal = sync.OnceValue(func() cipher.AEAD {
	var key [32]byte
	_, _ = rand.Read(key[:])                       // never fails
	block, _ := aes.NewCipher(key[:])              // fails only for a key of another size
	aead, _ := cipher.NewGCMWithRandomNonce(block) // the same
	return aead
})

// cursor is one behind a key of a list of what was done at a cluster, "" behind none.
func (v *viewer) cursor(cluster string, key []byte) string {
	if key == nil {
		return ""
	}
	b := slices.Concat([]byte{plainCursor}, key)
	if !v.everything(cluster) {
		padded := append(binary.AppendUvarint(nil, uint64(len(key))), key...)
		padded = append(padded, make([]byte, cursorStep-1-(len(padded)-1)%cursorStep)...)
		b = cursorSeal().Seal([]byte{sealedCursor}, nil, padded, nil)
	}
	return cursorText(b)
}

// readCursor is the key that a cursor is behind, nil for none.
func (v *viewer) readCursor(cluster, s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	b, err := cursorBytes(s)
	switch {
	case err != nil:
		return nil, err
	case b[0] == plainCursor && v.everything(cluster):
		return b[1:], nil
	case b[0] != sealedCursor:
		return nil, notCursor(s)
	}
	padded, err := cursorSeal().Open(nil, nil, b[1:], nil)
	length, n := binary.Uvarint(padded)
	if err != nil || n <= 0 || length > uint64(len(padded)-n) {
		return nil, fmt.Errorf("%w: it is of another node, or of this one before it started: begin anew", notCursor(s))
	}
	return padded[n:][:length], nil
}

func cursorText(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// cursorBytes are at least one.
func cursorBytes(s string) ([]byte, error) {
	if len(s) > maxCursor {
		return nil, notCursor(s)
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) == 0 {
		return nil, notCursor(s)
	}
	return b, nil
}

func notCursor(s string) error {
	return fmt.Errorf("%w: %.40q is no cursor of this list", ErrInvalid, s)
}
