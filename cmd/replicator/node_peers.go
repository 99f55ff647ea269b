package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/waybillhq/waybill/cluster"
)

// askPeer makes one request of another node and reads an answer of at most so many
// bytes. Nodes know each other by their certificates.
func askPeer(ctx context.Context, fleet *cluster.Node, node, path string, query url.Values, most int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+node+path+"?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := fleet.PeerClient().Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask node %s: %w", node, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("ask node %s: %w", node, err)
	case int64(len(body)) > most:
		return nil, fmt.Errorf("ask node %s: the answer has more than %d bytes", node, most)
	case resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("node %s does not know %s: it runs an older version", node, path)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("node %s answers %s: %.200s", node, resp.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}

// answerPeer answers another node.
func answerPeer(w http.ResponseWriter, v any, err error) {
	if err == nil {
		var b []byte
		if b, err = json.Marshal(v); err == nil {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(b) // the other may have gone
			return
		}
	}
	http.Error(w, err.Error(), http.StatusInternalServerError)
}
