package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/flow"
)

func newEdit() *cobra.Command {
	var fleet server
	cmd := &cobra.Command{
		Use:   "edit KIND NAME",
		Short: "Change an object in your editor, unless somebody else is faster",
		Long: `Change an object in your editor ($VISUAL, $EDITOR, else vi), unless somebody else
is faster: what you saved is then kept in a file that is named.`,
		Example: "  replicator edit flow us-eu",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, err := kindOf(args[0])
			if err != nil {
				return err
			}
			return edit(cmd, &fleet, kind, args[1])
		},
	}
	fleet.flags(cmd)
	return cmd
}

func edit(cmd *cobra.Command, fleet *server, kind, name string) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	path := "/api/v1/objects/" + kind + "/" + url.PathEscape(name)
	var have api.Object
	if err := fleet.call(ctx, http.MethodGet, path, nil, &have); err != nil {
		return err
	}
	var o flow.Object
	if err := json.Unmarshal(have.Object, &o); err != nil {
		return fmt.Errorf("read %s/%s: %w", kind, name, err)
	}
	before, err := flow.MarshalYAML(o)
	if err != nil {
		return err
	}
	file, after, err := editFile(ctx, cmd, name, before)
	if err != nil {
		return err
	}
	if bytes.Equal(before, after) {
		fmt.Fprintf(out, "%s/%s unchanged\n", kind, name)
		return os.Remove(file)
	}
	var put api.Object
	err = checkEdited(after)
	if err == nil {
		err = fleet.callAt(ctx, http.MethodPut, path, after, decimal(have.Revision), &put)
	}
	if err != nil {
		return fmt.Errorf("%w\nyour text is in %s", err, file)
	}
	fmt.Fprintf(out, "%s/%s changed\nrevision %d\n", kind, name, put.Revision)
	return os.Remove(file)
}

// checkEdited finds faults with the lines that the person sees.
func checkEdited(yaml []byte) error {
	if _, err := flow.Parse("your text", bytes.NewReader(yaml)); err != nil {
		return withCode(exitInvalid, invalid(err))
	}
	return nil
}

// editFile has a person change a text, and returns it and the file that it is in.
func editFile(ctx context.Context, cmd *cobra.Command, name string, text []byte) (file string, edited []byte, err error) {
	f, err := os.CreateTemp("", "waybill-"+strings.Map(plainLetter, name)+"-*.yaml")
	if err != nil {
		return "", nil, err
	}
	file = f.Name()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", nil, err
	}
	words := editorWords()
	editor := exec.CommandContext(ctx, words[0], append(words[1:], file)...)
	editor.Stdin, editor.Stdout, editor.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
	if err := editor.Run(); err != nil {
		return "", nil, &codedError{fmt.Errorf("editor %s: %w", words[0], err), exitFailed, "set $EDITOR to one that is there; nothing was changed"}
	}
	edited, err = os.ReadFile(file)
	return file, edited, err
}

// editorWords is the command of the editor. A variable of blanks names none.
func editorWords() []string {
	for _, name := range []string{"VISUAL", "EDITOR"} {
		if words := strings.Fields(os.Getenv(name)); len(words) > 0 {
			return words
		}
	}
	return []string{"vi"}
}

func plainLetter(r rune) rune {
	if r == '/' || r == '*' || r == 0 {
		return '_'
	}
	return r
}
