package media

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Code names a kind of refusal. It is stable: programs switch on it. A Code is an error, so
// errors.Is(err, media.TooLarge) asks whether err carries it.
type Code string

// The codes.
const (
	Unsupported   Code = "unsupported"    // a kind, codec or feature that is not read here
	Malformed     Code = "malformed"      // the bytes contradict their own format
	Truncated     Code = "truncated"      // the bytes end before what they announce
	TooLarge      Code = "too_large"      // above a limit; Limit and Actual say which
	TooSmall      Code = "too_small"      // below what an option or a model needs
	Empty         Code = "empty"          // nothing in it: no bytes, samples, points or pixels
	Mismatch      Code = "mismatch"       // declared as one medium, holding another
	BadOptions    Code = "bad_options"    // options that do not fit their schema
	NotReplayable Code = "not_replayable" // read forward only, asked for again
	TimedOut      Code = "timed_out"      // decoding took longer than Limits.Time or the deadline
	Canceled      Code = "canceled"       // the caller left
	Unreadable    Code = "unreadable"     // the input itself failed: a file or network error
	PluginFailed  Code = "plugin_failed"  // the program behind a modality crashed or answered nonsense
)

// Codes lists every code, in the order of documentation.
func Codes() []Code {
	return []Code{Unsupported, Malformed, Truncated, TooLarge, TooSmall, Empty, Mismatch,
		BadOptions, NotReplayable, TimedOut, Canceled, Unreadable, PluginFailed}
}

// Error implements error.
func (c Code) Error() string { return string(c) }

// Error says why an input was refused.
type Error struct {
	Code   Code    `json:"code"`
	Detail string  `json:"detail"`           // lower case: "image: png: 16000×16000 pixels"
	Limit  float64 `json:"limit,omitempty"`  // the limit that was passed, in the unit of Detail
	Actual float64 `json:"actual,omitempty"` // what the input has or claims
	Err    error   `json:"-"`                // the cause, may be nil
}

// Error implements error: the detail, the numbers when there are any, the cause.
func (e *Error) Error() string {
	s := e.Detail
	if e.Limit != 0 || e.Actual != 0 {
		s += fmt.Sprintf(": limit %.10g, actual %.10g", e.Limit, e.Actual)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// MarshalJSON writes the code, the detail with the cause after it, and the numbers.
func (e *Error) MarshalJSON() ([]byte, error) {
	type plain Error
	out := plain(*e)
	if e.Err != nil {
		out.Detail += ": " + e.Err.Error()
	}
	return json.Marshal(out)
}

// Unwrap gives the code and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Code}
	}
	return []error{e.Code, e.Err}
}

// Errorf makes an Error of a code.
func Errorf(c Code, format string, args ...any) *Error {
	return &Error{Code: c, Detail: fmt.Sprintf(format, args...)}
}

// Exceeds makes a TooLarge error: what names the thing with its package, as "audio: seconds".
func Exceeds(what string, limit, actual float64) *Error {
	return &Error{Code: TooLarge, Detail: what, Limit: limit, Actual: actual}
}

// Wrap turns any error of reading or decoding into one that carries a code. An error that has
// one already keeps it; the end of the bytes becomes Truncated; a cancelled or late context
// Canceled or TimedOut; anything else gets fallback. Detail says what was being done.
func Wrap(err error, fallback Code, detail string) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	code := fallback
	switch {
	case errors.Is(err, context.Canceled):
		code = Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = TimedOut
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		code = Truncated
	}
	return &Error{Code: code, Detail: detail, Err: err}
}

// AsError returns any error as one Error: its detail is the whole message, the code and the
// numbers are those the error carries. An error without a code gets Unreadable.
func AsError(err error) *Error {
	own, ok := errors.AsType[*Error](err)
	if !ok {
		return Wrap(err, Unreadable, "media").(*Error)
	}
	if error(own) == err {
		return own
	}
	out := *own
	out.Detail = strings.TrimSuffix(err.Error(), own.Error()) + own.Detail
	return &out
}

// CodeOf returns the code an error carries, "" when it carries none.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	if c, ok := errors.AsType[Code](err); ok {
		return c
	}
	return ""
}
