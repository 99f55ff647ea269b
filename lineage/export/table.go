package export

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// The forms of a table.
const (
	CSV    = "csv"    // RFC 4180, with the names of the columns first
	NDJSON = "ndjson" // one JSON object a line
)

// Write writes rows, a slice of structs whose fields are texts, numbers, booleans and times, in one of the
// forms. The columns are the fields' names in JSON.
//
// A cell that a spreadsheet would take for a formula, which a client could have made by
// giving itself such a name, begins with an apostrophe (OWASP, CSV injection).
func Write(form string, rows any) ([]byte, error) {
	list := reflect.ValueOf(rows)
	var b bytes.Buffer
	if form == NDJSON {
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		for i := range list.Len() {
			if err := enc.Encode(list.Index(i).Interface()); err != nil {
				return nil, fmt.Errorf("write row %d: %w", i, err)
			}
		}
		return b.Bytes(), nil
	}
	var fields [][]int
	var names []string
	for _, f := range reflect.VisibleFields(list.Type().Elem()) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && !f.Anonymous {
			fields, names = append(fields, f.Index), append(names, name)
		}
	}
	w := csv.NewWriter(&b)
	_ = w.Write(names) // errors are those of the buffer, which has none
	for i := range list.Len() {
		row := list.Index(i)
		cells := make([]string, len(fields))
		for j, index := range fields {
			cells[j] = cell(row.FieldByIndex(index).Interface())
		}
		_ = w.Write(cells)
	}
	w.Flush()
	return b.Bytes(), nil
}

func cell(v any) string {
	switch v := v.(type) {
	case time.Time:
		if v.IsZero() {
			return ""
		}
		return v.Format(time.RFC3339Nano)
	case string:
		if v != "" && strings.ContainsRune("=+-@\t\r", rune(v[0])) {
			return "'" + v
		}
		return v
	}
	return fmt.Sprint(v)
}
