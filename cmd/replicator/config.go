package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/vfs"
)

// config is the plain YAML file of a process while it is checked: every fault
// is reported, with its line.
type config struct{ *flow.Document }

// loadConfig reads a file into out, strictly. What is wrong with it is for
// config.err, after the caller has looked at the values.
func loadConfig(path string, out any) (config, error) {
	f, err := os.Open(path)
	if err != nil {
		return config{}, withCode(exitInvalid, fmt.Errorf("configuration: %w", err))
	}
	defer f.Close()
	d, err := flow.ReadDocument(path, f, out)
	if err != nil {
		return config{}, withCode(exitInvalid, fmt.Errorf("configuration: %w", err))
	}
	return config{d}, nil
}

func (c config) err() error {
	if err := c.Err(); err != nil {
		return withCode(exitInvalid, fmt.Errorf("configuration: %w", invalid(err)))
	}
	return nil
}

// address wants host:port; empty is another's business.
func (c config) address(path, value string) {
	if value == "" {
		return
	}
	_, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		c.Fault(path, fmt.Sprintf("%q is not an address", value), "write host:port")
	}
}

// loopback is about what an address says, not what it resolves to.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// file wants one that can be read; empty is another's business.
func (c config) file(path, value string) {
	if value == "" {
		return
	}
	f, err := os.Open(value)
	if err != nil {
		c.Fault(path, "cannot be read: "+err.Error(), "")
		return
	}
	f.Close()
}

// pair wants a certificate and its key that fit each other, or neither.
func (c config) pair(path, certFile, keyFile string) {
	c.file(path+".certFile", certFile)
	c.file(path+".keyFile", keyFile)
	switch {
	case certFile != "" && keyFile == "":
		c.Fault(path+".keyFile", "is missing", "a certificate needs its key")
	case keyFile != "" && certFile == "":
		c.Fault(path+".certFile", "is missing", "a key needs its certificate")
	case certFile != "":
		if _, err := tls.LoadX509KeyPair(certFile, keyFile); err != nil {
			c.Fault(path+".certFile", "cannot be used: "+err.Error(), "")
		}
	}
}

// writeFile writes a file that only its owner reads, whole or not at all.
func writeFile(path string, content []byte) error {
	return vfs.WriteFileBeside(vfs.Private{}, path, content)
}
