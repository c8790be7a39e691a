package modality

import (
	"context"
	"encoding/json"
	"time"

	"github.com/mmserve/mmserve/modality/media"
)

// Input, Header, Limits, Error and Code are those of package media, named here so that a
// caller of adapters needs one import.
type (
	Input  = media.Input
	Header = media.Header
	Limits = media.Limits
	Error  = media.Error
	Code   = media.Code
)

// Adapter turns inputs of one medium into byte arrays. An adapter holds its options, never an
// input; it is safe for concurrent use.
type Adapter interface {
	// Info says what the adapter is, with the options it was opened with.
	Info() Info
	// Plan says from the header alone what Adapt will give and need. It refuses what Adapt would
	// refuse whenever the header tells, in little time and memory.
	Plan(ctx context.Context, h Header) (Cost, error)
	// Adapt opens the input as an array. It may decode at once (a picture) or while rows are
	// read (a long recording); ctx bounds both. The input's bytes must stay readable until the
	// array is closed.
	Adapt(ctx context.Context, in Input) (*Array, error)
}

// Open makes an adapter from its options, a JSON object that fits Info().Options, or nil for
// the defaults. Options that do not fit are a BadOptions error (see Options).
type Open func(options json.RawMessage) (Adapter, error)

// Info describes an adapter.
type Info struct {
	Name       string          `json:"name"`                // as registered: "image"
	Doc        string          `json:"doc"`                 // one line
	MediaTypes []string        `json:"media_types"`         // "image/png", …
	Extensions []string        `json:"extensions"`          // ".png", …, lower case
	Magic      []Magic         `json:"magic,omitempty"`     // signatures of the formats
	Options    json.RawMessage `json:"options"`             // JSON Schema of the options
	Channels   int             `json:"channels,omitempty"`  // C of the rows with these options, 0 when the input decides
	Content    int             `json:"content,omitempty"`   // of these, channels of content; the rest are positions
	Position   string          `json:"position"`            // "fourier", "learned" or "none"
	Streams    bool            `json:"streams"`             // a forward-only input is read without being kept
	Composite  bool            `json:"composite,omitempty"` // takes inputs of several parts
}

// Magic is the signature of a format: Bytes at Offset of the file. In Bytes a '?' stands for
// any byte when Wild is set.
type Magic struct {
	MediaType string `json:"media_type"`
	Offset    int    `json:"offset,omitempty"`
	Bytes     []byte `json:"bytes"` // base64 in JSON
	Wild      bool   `json:"wild,omitempty"`
}

// Match reports whether the head has the signature.
func (m Magic) Match(head []byte) bool {
	if m.Offset+len(m.Bytes) > len(head) {
		return false
	}
	for i, b := range m.Bytes {
		if head[m.Offset+i] != b && !(m.Wild && b == '?') {
			return false
		}
	}
	return true
}

// Sniffer is an adapter of formats that have no fixed signature (a table of numbers, plain
// text). Sniff returns the media type it takes the header for and how sure it is: 0 not at
// all, 1 as sure as a signature.
type Sniffer interface {
	Sniff(h Header) (mediaType string, sure float64)
}

// Cost is what a plan knows: the facts of the input that apply to its medium, and the array
// that Adapt will give. Its JSON fields are those of `mmserve plan`.
type Cost struct {
	Modality     string  `json:"modality"`
	MediaType    string  `json:"media_type"`
	Width        int     `json:"width,omitempty"`       // pixels, upright
	Height       int     `json:"height,omitempty"`      // pixels, upright
	Frames       int     `json:"frames,omitempty"`      // of a video or animation
	SampleRate   int     `json:"sample_rate,omitempty"` // Hz, of the file
	Channels     int     `json:"channels,omitempty"`    // of sound, of the file
	Seconds      float64 `json:"seconds,omitempty"`     // of the file
	Points       int64   `json:"points,omitempty"`      // of the file
	Rows         int     `json:"rows"`                  // M of the array
	RowChannels  int     `json:"row_channels"`          // C of the array
	DecodedBytes int64   `json:"decoded_bytes"`         // memory Adapt and the array hold at most
	// Decoding is about how long decoding and preparing the input takes one core; zero when that
	// is next to nothing or not known. It is for queues, and no answer shows it.
	Decoding time.Duration `json:"-"`
	// Estimated is set when the header does not tell the rows exactly (a forward-only stream, a
	// table with rows to skip): Rows is then an upper bound.
	Estimated bool     `json:"estimated,omitempty"`
	Notes     []string `json:"notes,omitempty"` // what will be cropped, resampled, ignored
}
