package auth

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// TestDistinguishedNamesAreWrittenAsJavaDoes: names and encodings come from
// javax.security.auth.x500.X500Principal.
func TestDistinguishedNamesAreWrittenAsJavaDoes(t *testing.T) {
	for der, want := range map[string]string{
		"304a310b300906035504061302555331193017060355040a131053756e204d6963726f73797374656d733111300f060355040b13084a617661536f6674310d300b0603550403130444756b65":                                                                             `CN=Duke,OU=JavaSoft,O=Sun Microsystems,C=US`,
		"30703111300f060a0992268993f22c64010113017531133011060a0992268993f22c6401191603636f6d31123010060a0992268993f22c6401191602657831143008060355040b1301783008060355040b130179311c301a06035504030c13612c622b633d643c653e663b6723685c69226a": `CN=a\,b\+c\=d\<e\>f\;g\#h\\i\"j,OU=x+OU=y,DC=ex,DC=com,UID=u`,
		"3042310a3008060355040713016c310a30080603550409130173310a30080603550408130161310b3009060355040513023132310f300d06035504030c06236c65616420":                                                                                             `CN=\#lead\ ,2.5.4.5=#13023132,ST=a,STREET=s,L=l`,
		"30263110300e06035504030c07c3a4e282ac5f2a3112301006092a864886f70d0109011603614062":                                                                                                                                                     `1.2.840.113549.1.9.1=#1603614062,CN=ä€_*`,
		"302f310c300a060355040b130374776f310c300a060355040b13036f6e653111300f060355040313082073702020737020":                                                                                                                                   `CN=\ sp  sp\ ,OU=one,OU=two`,
		"3027310a30080603550403130178310a3008060355042a130167310d300b060355040c1304626f7373":                                                                                                                                                   `2.5.4.12=#1304626f7373,2.5.4.42=#130167,CN=x`,
		"3000": ``,
	} {
		raw, err := hex.DecodeString(der)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DistinguishedName(raw); err != nil || got != want {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
	}
	for _, bad := range []string{"", "3001", "30000000", "0500", "30053103020100"} {
		raw, err := hex.DecodeString(bad)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DistinguishedName(raw); err == nil {
			t.Errorf("%s is taken for %q", bad, got)
		}
	}
}

func TestPrincipalMapping(t *testing.T) {
	const dn = "CN=Duke,OU=ServiceUsers,O=Org,C=US"
	for name, c := range map[string]struct {
		rules []string
		dn    string
		want  string // "" is nobody
	}{
		"none":                       {nil, dn, dn},
		"default":                    {[]string{"DEFAULT"}, dn, dn},
		"common name":                {[]string{"RULE:^CN=(.*?),.*$/$1/"}, dn, "Duke"},
		"in small letters":           {[]string{"RULE:^CN=(.*?),.*$/$1/L"}, dn, "duke"},
		"in capitals":                {[]string{"RULE:^CN=(.*?),.*$/$1/U"}, dn, "DUKE"},
		"two groups":                 {[]string{"RULE:^CN=(.*?),OU=(.*?),.*$/$1@$2/"}, dn, "Duke@ServiceUsers"},
		"the first that matches":     {[]string{"RULE:^CN=(.*?),OU=Other.*$/other/", "RULE:^CN=(.*?),OU=ServiceUsers.*$/$1/L", "DEFAULT"}, dn, "duke"},
		"none matches":               {[]string{"RULE:^CN=(.*?),OU=Other.*$/other/"}, dn, ""},
		"none matches, then default": {[]string{"RULE:^CN=(.*?),OU=Other.*$/other/", "DEFAULT"}, dn, dn},
		"a part is not the whole":    {[]string{"RULE:CN=Duke/evil/"}, "OU=x,CN=Duke", ""},
		"alternatives are the whole": {[]string{"RULE:CN=Duke|CN=Other/one/"}, "CN=Duke,O=x", ""},
		"escaped slashes":            {[]string{`RULE:CN=a\/(b)/x\/$1/`}, "CN=a/b", "x/b"},
		"a group that is not there":  {[]string{"RULE:CN=(.*)/$1$2/"}, "CN=a", "a$2"},
		"a digit behind a group":     {[]string{"RULE:CN=(.*)/$10/"}, "CN=a", "a0"},
		"an escaped dollar":          {[]string{`RULE:CN=(.*)/\$1/`}, "CN=a", "$1"},
		"an empty name":              {[]string{"RULE:CN=(.*)//"}, "CN=a", ""},
		"spaces around":              {[]string{" RULE:CN=(.*)/$1/ "}, "CN=a", "a"},
	} {
		m, err := ParsePrincipalMapping(c.rules)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := m.Name(c.dn)
		if got != c.want || (c.want == "") != errors.Is(err, ErrNoRule) {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, c.want)
		}
	}
	_, err := ParsePrincipalMapping([]string{"RULE:CN=(.*)/$1", "RULE:(/x/", "RULE:a/b/X", "default", "", "RULE:(?=x)/y/"})
	if err == nil || strings.Count(err.Error(), "rule ") != 6 {
		t.Errorf("got %v, want six faults", err)
	}
}

func FuzzDistinguishedName(f *testing.F) {
	for _, seed := range []string{"3000", "302f310c300a060355040b130374776f310c300a060355040b13036f6e653111300f060355040313082073702020737020"} {
		raw, err := hex.DecodeString(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		name, err := DistinguishedName(raw)
		if err != nil && name != "" {
			t.Errorf("%q beside %v", name, err)
		}
	})
}

func FuzzParsePrincipalMapping(f *testing.F) {
	f.Add("RULE:^CN=(.*?),.*$/$1/L", "CN=x,O=y")
	f.Add(`RULE:CN=a\/(b)/x\/$1$12/`, "CN=a/b")
	f.Fuzz(func(t *testing.T, rule, dn string) {
		m, err := ParsePrincipalMapping([]string{rule})
		if err != nil {
			return
		}
		if name, err := m.Name(dn); err == nil && name == "" && dn != "" {
			t.Errorf("%q makes an empty name of %q", rule, dn)
		}
	})
}
