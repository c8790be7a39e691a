// Package external lets a program that is not part of this binary be a modality: a plug-in that
// is written in any language and added without rebuilding.
//
// The program reads requests from its standard input and writes answers to its standard output,
// one after the other, until its input ends. Both are frames:
//
//	uint32, little-endian: length of the JSON that follows
//	JSON object, its "bytes" (default 0) the length of what follows it
//	bytes: the medium in a request, float32 rows (little-endian, row by row) in an answer
//
// Requests: {"op": "info"}; {"op": "plan", "name", "media_type", "size", "options", "bytes"} with
// the first media.HeadBytes of the medium; {"op": "adapt", …} with all of it. Answers: {"info": …}
// with the fields of modality.Info; {"rows": M, "channels": C, "estimated", "notes"}, and to
// adapt the rows as well; or {"error": {"code": "malformed", "detail": "…"}}. What it prints to
// standard error is kept for the message when it fails.
//
// Serve is that loop for a modality.Adapter written in Go. examples/plugin has one in Go and one
// in Python.
package external

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
)

// maxHeader is the longest JSON of a frame, in bytes.
const maxHeader = 1 << 20

// request is what the host asks.
type request struct {
	Op        string          `json:"op"`
	Name      string          `json:"name,omitempty"`
	MediaType string          `json:"media_type,omitempty"`
	Size      int64           `json:"size,omitempty"` // of the whole medium
	Options   json.RawMessage `json:"options,omitempty"`
	Bytes     int64           `json:"bytes,omitempty"`
}

// answer is what the program says.
type answer struct {
	Info      *modality.Info `json:"info,omitempty"`
	Rows      int            `json:"rows,omitempty"`
	Channels  int            `json:"channels,omitempty"`
	Estimated bool           `json:"estimated,omitempty"`
	Notes     []string       `json:"notes,omitempty"`
	Error     *fault         `json:"error,omitempty"`
	Bytes     int64          `json:"bytes,omitempty"`
}

// fault is a refusal: one of media's codes and words for people.
type fault struct {
	Code   media.Code `json:"code"`
	Detail string     `json:"detail"`
}

// writeFrame writes one JSON header; the bytes that it announces are the caller's to write.
func writeFrame(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

// readFrame reads one JSON header. io.EOF is the end between frames.
func readFrame(r io.Reader, v any) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(size[:])
	if n == 0 || n > maxHeader {
		return fmt.Errorf("frame of %d bytes, 1 to %d are allowed", n, maxHeader)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return io.ErrUnexpectedEOF
	}
	return json.Unmarshal(b, v)
}
