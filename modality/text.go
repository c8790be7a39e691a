package modality

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/mmserve/mmserve/modality/media"
)

// TextOptions are the options of the text adapter.
type TextOptions struct {
	Code       string  `json:"code"`       // channels of a byte: "onehot" (262), "bits" (9) or "id" (1)
	Position   string  `json:"position"`   // "fourier" or "none"
	Bands      int     `json:"bands"`      // Fourier bands
	Resolution float32 `json:"resolution"` // Fourier maximum resolution; row i lies at -1+2i/(resolution-1)
	MaxLength  int     `json:"max_length"` // rows at most; 0: all of the text
	Truncate   bool    `json:"truncate"`   // cut at max_length instead of refusing
	Specials   bool    `json:"specials"`   // [CLS] before and [SEP] after
	Parse      bool    `json:"parse"`      // "[MASK]" and its like in the text become their ids
}

var textSchema = json.RawMessage(`{
  "type": "object", "additionalProperties": false,
  "properties": {
    "code": {"enum": ["onehot", "bits", "id"], "default": "onehot", "description": "channels of one byte: one of 262 set; eight bits as -1 or 1 and a flag for special tokens; the id itself"},
    "position": {"enum": ["fourier", "none"], "default": "fourier"},
    "bands": {"type": "integer", "minimum": 1, "maximum": 1024, "default": 64},
    "resolution": {"type": "number", "minimum": 2, "default": 2048, "description": "maximum resolution of the Fourier code; rows beyond it lie beyond 1"},
    "max_length": {"type": "integer", "minimum": 0, "default": 0, "description": "rows at most; 0 for all of the text"},
    "truncate": {"type": "boolean", "default": false, "description": "cut at max_length instead of refusing"},
    "specials": {"type": "boolean", "default": true, "description": "[CLS] before the text and [SEP] after it"},
    "parse": {"type": "boolean", "default": false, "description": "the names of special tokens in the text become their ids"}
  }
}`)

// textAdapter reads bytes of text. Byte-level models take any bytes, so nothing but length is
// ever refused.
type textAdapter struct {
	o       TextOptions
	fourier Fourier
}

// OpenText opens the text adapter.
func OpenText(options json.RawMessage) (Adapter, error) {
	o := TextOptions{Code: "onehot", Position: "fourier", Bands: 64, Resolution: 2048, Specials: true}
	if err := Options("text", options, &o); err != nil {
		return nil, err
	}
	switch {
	case o.Code != "onehot" && o.Code != "bits" && o.Code != "id":
		return nil, BadOption("text", "code %q: want onehot, bits or id", o.Code)
	case o.Position != "fourier" && o.Position != "none":
		return nil, BadOption("text", "position %q: want fourier or none", o.Position)
	case o.Bands < 1 || o.Bands > 1024:
		return nil, BadOption("text", "bands %d: want 1 to 1024", o.Bands)
	case !(o.Resolution >= 2 && o.Resolution <= 1e9):
		return nil, BadOption("text", "resolution %g: want 2 to 1e9", o.Resolution)
	case o.MaxLength < 0 || o.MaxLength > 0 && o.MaxLength < 3:
		return nil, BadOption("text", "max_length %d: want 0 or at least 3", o.MaxLength)
	}
	return &textAdapter{o: o, fourier: NewFourier(o.Bands, o.Resolution)}, nil
}

// Info implements Adapter.
func (a *textAdapter) Info() Info {
	info := Info{
		Name: "text", Doc: "text as bytes: UTF-8, UTF-16 with a byte order mark, anything else byte for byte",
		MediaTypes: []string{"text/plain"},
		Extensions: []string{".txt", ".text", ".md"},
		Options:    textSchema, Content: a.content(), Position: a.o.Position,
	}
	info.Channels = info.Content + a.positions()
	return info
}

func (a *textAdapter) content() int {
	return map[string]int{"onehot": Vocabulary, "bits": 9, "id": 1}[a.o.Code]
}

func (a *textAdapter) positions() int {
	if a.o.Position == "none" {
		return 0
	}
	return a.fourier.Channels()
}

// Sniff implements Sniffer: a head that is UTF-8 without control characters is text, less
// surely than a table of points would be.
func (a *textAdapter) Sniff(h Header) (string, float64) {
	head := h.Head
	if charset(head) != "" {
		return "text/plain", 0.6
	}
	for len(head) > 0 {
		r, n := utf8.DecodeRune(head)
		if r == utf8.RuneError && n == 1 && len(head) >= utf8.UTFMax || r < ' ' && r != '\t' && r != '\n' && r != '\r' && r != '\f' {
			return "", 0
		}
		head = head[n:]
	}
	return "text/plain", 0.5
}

// charset names the encoding that a byte order mark announces, "" when there is none.
func charset(head []byte) string {
	switch {
	case bytes.HasPrefix(head, []byte{0xEF, 0xBB, 0xBF}):
		return "utf-8"
	case bytes.HasPrefix(head, []byte{0xFF, 0xFE}):
		return "utf-16le"
	case bytes.HasPrefix(head, []byte{0xFE, 0xFF}):
		return "utf-16be"
	}
	return ""
}

// Plan implements Adapter. The rows are exact for a replayable input of plain bytes.
func (a *textAdapter) Plan(ctx context.Context, h Header) (Cost, error) {
	l := h.Limits.WithDefaults()
	c := Cost{Modality: "text", MediaType: "text/plain", RowChannels: a.content() + a.positions()}
	size := h.Size
	if size < 0 {
		size, c.Estimated = l.Text, true
	} else if err := media.Check("text: bytes", l.Text, size); err != nil {
		return c, err
	}
	switch charset(h.Head) {
	case "utf-8":
		size -= 3
		c.Notes = append(c.Notes, noteBOM)
	case "utf-16le", "utf-16be":
		size = (size - 2) / 2 * 3 // a unit becomes at most three bytes
		c.Estimated = true
		c.Notes = append(c.Notes, "UTF-16 made UTF-8")
	}
	if a.o.Parse {
		c.Estimated = true
	}
	if size <= 0 && !c.Estimated {
		return c, media.Errorf(media.Empty, "text: nothing after the byte order mark")
	}
	rows, note, err := a.rows(size)
	if err != nil {
		if !c.Estimated {
			return c, err
		}
		rows = int64(a.o.MaxLength)
	}
	if note != "" && !c.Estimated {
		c.Notes = append(c.Notes, note)
	}
	c.Rows = int(rows)
	c.DecodedBytes = rows*2 + size
	return c, media.Check("text: rows", l.Rows, rows)
}

const noteBOM = "byte order mark dropped"

// rows is the number of rows n ids become, and a note when they are cut.
func (a *textAdapter) rows(n int64) (rows int64, note string, err error) {
	rows = n
	if a.o.Specials {
		rows += 2
	}
	if a.o.MaxLength == 0 || rows <= int64(a.o.MaxLength) {
		return rows, "", nil
	}
	if !a.o.Truncate {
		return 0, "", media.Exceeds("text: rows", float64(a.o.MaxLength), float64(rows))
	}
	return int64(a.o.MaxLength), fmt.Sprintf("cut to %d of %d rows", a.o.MaxLength, rows), nil
}

// Adapt implements Adapter.
func (a *textAdapter) Adapt(ctx context.Context, in Input) (*Array, error) {
	raw, err := readText(ctx, in)
	if err != nil {
		return nil, err
	}
	text, notes := decodeText(raw)
	ids := Tokenizer{Literal: !a.o.Parse}.ids(string(text))
	if len(ids) == 0 {
		return nil, media.Errorf(media.Empty, "text: no bytes")
	}
	rows, note, err := a.rows(int64(len(ids)))
	if err != nil {
		return nil, err
	}
	if note != "" {
		notes = append(notes, note)
	}
	t := &textContent{code: a.o.Code, width: a.content(), ids: make([]uint16, 0, rows)}
	keep := int(rows)
	if a.o.Specials {
		keep -= 2
		t.ids = append(t.ids, CLS)
	}
	for _, id := range ids[:keep] {
		t.ids = append(t.ids, uint16(id))
	}
	if a.o.Specials {
		t.ids = append(t.ids, SEP)
	}
	array := &Array{Content: t, Notes: notes}
	if a.o.Position == "fourier" {
		array.Position = a.grid(len(t.ids))
	}
	array.Cost = Cost{Modality: "text", MediaType: "text/plain", Rows: len(t.ids), RowChannels: a.content() + a.positions(),
		DecodedBytes: int64(2*len(t.ids) + len(raw)), Notes: notes}
	return array, nil
}

// grid puts row i at -1+2i/(resolution-1) whatever the length of the text, so a byte's position
// code depends on its place only.
func (a *textAdapter) grid(rows int) *Grid {
	step := 2 / (float64(a.o.Resolution) - 1)
	return NewGridAt(a.fourier, func(_, i int) float32 { return float32(-1 + step*float64(i)) }, rows)
}

// readText reads a whole text under the text limit.
func readText(ctx context.Context, in Input) ([]byte, error) {
	l := in.Limits.WithDefaults()
	if err := media.Check("text: bytes", l.Text, in.Size); err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(media.NewReader(ctx, in.Reader(), l.Text))
	if err != nil {
		return nil, media.Wrap(err, media.Unreadable, "text: read")
	}
	if len(raw) == 0 {
		return nil, media.Errorf(media.Empty, "text: no bytes")
	}
	return raw, nil
}

// decodeText drops a UTF-8 byte order mark and turns UTF-16 with a mark into UTF-8, a lone
// surrogate or odd byte becoming U+FFFD. All other bytes are kept as they are.
func decodeText(raw []byte) (text []byte, notes []string) {
	var order binary.ByteOrder
	switch charset(raw) {
	case "utf-8":
		return raw[3:], []string{noteBOM}
	case "utf-16le":
		order = binary.LittleEndian
	case "utf-16be":
		order = binary.BigEndian
	default:
		if !utf8.Valid(raw) {
			notes = []string{"not UTF-8: bytes kept as they are"}
		}
		return raw, notes
	}
	units := make([]uint16, 0, len(raw)/2)
	rest := raw[2:]
	for ; len(rest) >= 2; rest = rest[2:] {
		units = append(units, order.Uint16(rest))
	}
	for _, r := range utf16.Decode(units) {
		text = utf8.AppendRune(text, r)
	}
	if len(rest) == 1 {
		text = utf8.AppendRune(text, utf8.RuneError)
	}
	return text, []string{"UTF-16 made UTF-8"}
}

// Describe implements Describer. The facts are of the file's own bytes.
func (a *textAdapter) Describe(ctx context.Context, in Input) (Cost, Facts, error) {
	in, done, err := media.Spool(ctx, in)
	if err != nil {
		return Cost{}, Facts{}, err
	}
	defer done()
	raw, err := readText(ctx, in)
	if err != nil {
		return Cost{}, Facts{}, err
	}
	array, err := a.Adapt(ctx, in)
	if err != nil {
		return Cost{}, Facts{}, err
	}
	defer array.Close()
	valid, runes := utf8.Valid(raw), int64(utf8.RuneCount(raw))
	return array.Cost, Facts{ValidUTF8: &valid, Runes: &runes}, nil
}

// textContent holds ids and writes their channels.
type textContent struct {
	code  string
	width int
	ids   []uint16
}

// Dims implements Content.
func (t *textContent) Dims() (m, c int) { return len(t.ids), t.width }

// Read implements Content.
func (t *textContent) Read(dst []float32, ld, from, to int) error {
	for r := from; r < to; r++ {
		row, id := dst[(r-from)*ld:][:t.width], t.ids[r]
		clear(row)
		switch t.code {
		case "id":
			row[0] = float32(id)
		case "onehot":
			row[id] = 1
		default:
			bits(row, id)
		}
	}
	return nil
}

// bits writes a byte as eight values -1 or 1, lowest bit first, and then 0; a special token as
// its id the same way, and then 1.
func bits(row []float32, id uint16) {
	if id < ByteOffset {
		row[8] = 1
	} else {
		id -= ByteOffset
	}
	for b := range 8 {
		row[b] = float32(2*int(id>>b&1) - 1)
	}
}
