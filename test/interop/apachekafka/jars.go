//go:build interop

package apachekafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// pom asks for an artifact of Apache Kafka with what it needs to run. Its logging facade
// has no backend of its own in every version, so the simple one is added. The interfaces
// for plug-ins of command-line tools are not needed, and were not published with
// every version.
const pom = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>waybill</groupId><artifactId>interop</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>%s</artifactId><version>%s</version>
      <exclusions><exclusion><groupId>org.apache.kafka</groupId><artifactId>kafka-tools-api</artifactId></exclusion></exclusions></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
`

// downloadTries bounds how often Maven is asked; it keeps what it has, so a
// second try goes on where the first was cut off.
const downloadTries = 3

// Jars returns a directory with the jars of a broker of the given version. It
// is in the user's cache, and filled by Maven the first time.
func Jars(ctx context.Context, version string) (string, error) {
	return jars(ctx, "kafka_2.13", "kafka-"+version, version)
}

// MirrorMakerJars is the same of MirrorMaker 2.
func MirrorMakerJars(ctx context.Context, version string) (string, error) {
	return jars(ctx, "connect-mirror", "mirrormaker-"+version, version)
}

func jars(ctx context.Context, artifact, name, version string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("jars of %s: %w", name, err)
	}
	home := filepath.Join(cache, "waybill")
	dir := filepath.Join(home, name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("jars of %s: %w", name, err)
	}
	if err := os.MkdirAll(home, 0o755); err != nil {
		return "", fmt.Errorf("jars of %s: %w", name, err)
	}
	work, err := os.MkdirTemp(home, "fetch-")
	if err != nil {
		return "", fmt.Errorf("jars of %s: %w", name, err)
	}
	defer func() { _ = os.RemoveAll(work) }() // a leftover in the cache harms nobody
	if err := download(ctx, work, artifact, version); err != nil {
		return "", fmt.Errorf("jars of %s: %w", name, err)
	}
	// Whoever comes second finds the directory there, whole.
	if err := os.Rename(filepath.Join(work, "lib"), dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("jars of %s: %w", name, err)
	}
	return dir, nil
}

func download(ctx context.Context, work, artifact, version string) error {
	if err := os.WriteFile(filepath.Join(work, "pom.xml"), fmt.Appendf(nil, pom, artifact, version), 0o644); err != nil {
		return err
	}
	var last error
	for range downloadTries {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
		mvn := exec.CommandContext(ctx, "mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib")
		mvn.Dir = work
		out, err := mvn.CombinedOutput()
		cancel()
		if err == nil {
			return nil
		}
		last = fmt.Errorf("mvn: %w: %s", err, bytes.TrimSpace(out))
	}
	return last
}
