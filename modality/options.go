package modality

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"github.com/mmserve/mmserve/modality/media"
)

// Options decodes the JSON options of adapter name into v, which holds the defaults. Unknown
// fields, wrong types and anything after the object are BadOptions errors. Nil and null leave
// the defaults.
func Options(name string, options json.RawMessage, v any) error {
	if len(bytes.TrimSpace(options)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(options))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return &Error{Code: media.BadOptions, Detail: name + ": options", Err: err}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return media.Errorf(media.BadOptions, "%s: options: more than one JSON value", name)
	}
	return nil
}

// BadOption is the error for an option whose value does not fit.
func BadOption(name, format string, args ...any) error {
	e := media.Errorf(media.BadOptions, format, args...)
	e.Detail = name + ": options: " + e.Detail
	return e
}
