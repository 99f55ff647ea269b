package auth

import (
	"bytes"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf16"
)

// PrincipalMapping makes user names of the subjects of client certificates, by
// rules in the form of Kafka's ssl.principal.mapping.rules:
//
//	RULE:pattern/replacement/     the first rule whose pattern matches the whole
//	RULE:pattern/replacement/L    name decides; $1 stands for a group; L makes
//	RULE:pattern/replacement/U    lower case, U upper case
//	DEFAULT                       the name as it is
//
// Slashes in pattern and replacement are escaped with a backslash. Patterns are
// Go's (RE2), which have no look-ahead and no references. A name that no rule
// matches is nobody's. The zero mapping is DEFAULT.
type PrincipalMapping struct{ rules []mappingRule }

type mappingRule struct {
	pattern     *regexp.Regexp // nil: DEFAULT
	replacement string
	shape       func(string) string
}

// ErrNoRule says that a certificate's name is nobody's.
var ErrNoRule = errors.New("no mapping rule applies")

// ruleText has pattern, replacement and the case as groups.
var ruleText = regexp.MustCompile(`^RULE:((?:\\.|[^\\/])*)/((?:\\.|[^\\/])*)/([LU]?)$`)

// ParsePrincipalMapping reads rules, one a string.
func ParsePrincipalMapping(rules []string) (PrincipalMapping, error) {
	var m PrincipalMapping
	var errs []error
	for _, text := range rules {
		text = strings.TrimSpace(text)
		if text == "DEFAULT" {
			m.rules = append(m.rules, mappingRule{})
			continue
		}
		parts := ruleText.FindStringSubmatch(text)
		if parts == nil {
			errs = append(errs, fmt.Errorf("rule %q: write RULE:pattern/replacement/, with L or U after it, or DEFAULT", text))
			continue
		}
		pattern, err := regexp.Compile(`^(?:` + parts[1] + `)$`)
		if err != nil {
			errs = append(errs, fmt.Errorf("rule %q: %w", text, err))
			continue
		}
		r := mappingRule{pattern: pattern, replacement: parts[2], shape: strings.Clone}
		switch parts[3] {
		case "L":
			r.shape = strings.ToLower
		case "U":
			r.shape = strings.ToUpper
		}
		m.rules = append(m.rules, r)
	}
	return m, errors.Join(errs...)
}

// Name is the user that a distinguished name stands for.
func (m PrincipalMapping) Name(dn string) (string, error) {
	if len(m.rules) == 0 {
		return dn, nil
	}
	for _, r := range m.rules {
		if r.pattern == nil {
			return dn, nil
		}
		if groups := r.pattern.FindStringSubmatch(dn); groups != nil {
			name := r.shape(expand(r.replacement, groups))
			if name == "" {
				return "", fmt.Errorf("%w: %q becomes an empty name", ErrNoRule, dn)
			}
			return name, nil
		}
	}
	return "", fmt.Errorf("%w to %q", ErrNoRule, dn)
}

// expand puts groups into a replacement as Java does: a group's number goes on as
// long as there is such a group, a backslash takes what follows it as it is.
func expand(replacement string, groups []string) string {
	var b strings.Builder
	for i := 0; i < len(replacement); i++ {
		switch c := replacement[i]; {
		case c == '\\' && i+1 < len(replacement):
			i++
			b.WriteByte(replacement[i])
		case c == '$' && i+1 < len(replacement) && isDigit(replacement[i+1]):
			n, end := int(replacement[i+1]-'0'), i+2
			for end < len(replacement) && isDigit(replacement[end]) && n*10+int(replacement[end]-'0') < len(groups) {
				n, end = n*10+int(replacement[end]-'0'), end+1
			}
			if n >= len(groups) { // Kafka takes it literally
				b.WriteByte('$')
				continue
			}
			b.WriteString(groups[n])
			i = end - 1
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// nameKeywords are the attributes that Java writes by name; all others are
// written by number, with their value in hexadecimal.
var nameKeywords = map[string]string{
	"2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.9": "STREET", "2.5.4.10": "O", "2.5.4.11": "OU",
	"0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.1": "UID",
}

// DistinguishedName writes a certificate's subject (its DER) as Java does, whose
// brokers people wrote their ACLs and rules for: RFC 2253, with the order and the
// grouping of the certificate. The standard library sorts attributes.
func DistinguishedName(rawSubject []byte) (string, error) {
	var rdns []rawNameSET
	rest, err := asn1.Unmarshal(rawSubject, &rdns)
	switch {
	case err != nil:
		return "", fmt.Errorf("distinguished name: %w", err)
	case len(rest) > 0:
		return "", errors.New("distinguished name: bytes behind it")
	}
	var parts []string
	for i := len(rdns) - 1; i >= 0; i-- {
		var attributes []string
		for _, a := range rdns[i] {
			attributes = append(attributes, a.String())
		}
		parts = append(parts, strings.Join(attributes, "+"))
	}
	return strings.Join(parts, ","), nil
}

// rawNameSET is a relative distinguished name whose values keep their encoding. Its
// own name tells package asn1 what it is.
type rawNameSET []rawAttribute

type rawAttribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

func (a rawAttribute) String() string {
	oid := a.Type.String()
	if keyword, ok := nameKeywords[oid]; ok {
		if text, ok := directoryString(a.Value); ok {
			return keyword + "=" + escapeName(text)
		}
		return keyword + "=#" + hex.EncodeToString(a.Value.FullBytes)
	}
	return oid + "=#" + hex.EncodeToString(a.Value.FullBytes)
}

// directoryString decodes the string types that names are made of.
func directoryString(v asn1.RawValue) (string, bool) {
	if v.Class != asn1.ClassUniversal || v.IsCompound {
		return "", false
	}
	switch v.Tag {
	case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String, asn1.TagT61String, asn1.TagGeneralString:
		return string(bytes.ToValidUTF8(v.Bytes, []byte("\uFFFD"))), true
	case asn1.TagBMPString:
		if len(v.Bytes)%2 != 0 {
			return "", false
		}
		units := make([]uint16, 0, len(v.Bytes)/2)
		for i := 0; i < len(v.Bytes); i += 2 {
			units = append(units, uint16(v.Bytes[i])<<8|uint16(v.Bytes[i+1]))
		}
		return string(utf16.Decode(units)), true
	}
	return "", false
}

// escapeName escapes what has a meaning in a name, and spaces at its ends.
func escapeName(s string) string {
	var b strings.Builder
	first := len(s) - len(strings.TrimLeft(s, " "))
	last := len(strings.TrimRight(s, " "))
	for i := range len(s) {
		c := s[i]
		switch {
		case c == 0:
			b.WriteString(`\00`)
			continue
		case strings.IndexByte(`,=+<>#;"\`, c) >= 0,
			c == ' ' && (i < first || i >= last):
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}
