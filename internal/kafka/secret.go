package kafka

import (
	"fmt"
	"os"
	"strings"

	"github.com/waybillhq/waybill/flow"
)

// ResolveSecret reads what a reference points to: the environment for
// ${env:NAME}, a file for ${file:PATH} (a single newline at its end is not part
// of the secret). Errors name the reference, never the secret.
func ResolveSecret(s flow.Secret) (string, error) {
	ref, ok := strings.CutPrefix(string(s), "${")
	if ok {
		ref, ok = strings.CutSuffix(ref, "}")
	}
	source, name, found := strings.Cut(ref, ":")
	if !ok || !found {
		return "", fmt.Errorf("secret is not a reference: write ${env:NAME} or ${file:PATH}")
	}
	switch source {
	case "env":
		v, set := os.LookupEnv(name)
		if !set {
			return "", fmt.Errorf("secret %s: environment variable is not set", s)
		}
		return v, nil
	case "file":
		b, err := os.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("secret %s: %w", s, err)
		}
		return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"), nil
	}
	return "", fmt.Errorf("secret %s: unknown source %q: write ${env:NAME} or ${file:PATH}", s, source)
}
