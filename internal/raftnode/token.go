package raftnode

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
)

// Token lets one node that has no certificate yet into a group with an authority of
// its own. As text it is tokenPrefix and, in base64url without padding,
//
//	group (16) | SHA-256 of the authority's certificate (32) | id (8) | secret (16) | CRC-32C (4)
//
// The authority's digest lets the node know whom it talks to before it shows the
// secret. The group knows the secret's digest only.
type Token struct {
	Group     string // 32 hexadecimal digits
	Authority [sha256.Size]byte
	ID        string // 16 hexadecimal digits, not secret
	Secret    [16]byte
}

const (
	tokenPrefix = "waybill-join-"
	tokenSize   = 16 + sha256.Size + 8 + 16
)

func (t Token) String() string {
	b := make([]byte, 0, tokenSize+4)
	group, _ := hex.DecodeString(t.Group)
	id, _ := hex.DecodeString(t.ID)
	b = append(b, group...)
	b = append(b, t.Authority[:]...)
	b = append(b, id...)
	b = append(b, t.Secret[:]...)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseToken reads a token's text; white space around it does not matter.
func ParseToken(s string) (Token, error) {
	var t Token
	s = strings.TrimSpace(s)
	body, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok {
		return t, fmt.Errorf("a join token begins with %s", tokenPrefix)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(b) != tokenSize+4 {
		return t, errors.New("the join token is not whole: copy it again")
	}
	if binary.BigEndian.Uint32(b[tokenSize:]) != crc32.Checksum(b[:tokenSize], castagnoli) {
		return t, errors.New("the join token has a wrong character in it: copy it again")
	}
	t.Group = hex.EncodeToString(b[:16])
	copy(t.Authority[:], b[16:])
	t.ID = hex.EncodeToString(b[48:56])
	copy(t.Secret[:], b[56:])
	return t, nil
}

// SecretDigest is what the group keeps of the secret, in hexadecimal digits. The
// secret is random, so its digest does not give it away.
func (t Token) SecretDigest() string { return secretDigest(t.Secret[:]) }

func secretDigest(secret []byte) string {
	sum := sha256.Sum256(secret)
	return hex.EncodeToString(sum[:])
}

// NewToken makes a token of this node's group; whoever is to redeem it must be told
// of it. ErrNoAuthority if the group's certificates come from outside.
func (n *Node) NewToken() (Token, error) {
	id := n.identity.Load()
	if id == nil {
		return Token{}, ErrNoAuthority
	}
	t := Token{Group: n.Group(), Authority: sha256.Sum256(id.authority.Raw), ID: randomHex(8)}
	_, _ = rand.Read(t.Secret[:]) // never fails
	return t, nil
}
