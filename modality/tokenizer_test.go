package modality_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
)

// TestTokenizer matches every case of the reference tokenizer.
func TestTokenizer(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "testdata", "reference", "perceiver-processors", "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Cases []struct {
			Text    string
			Pair    *string `json:"text_pair"`
			Options struct {
				MaxLength int `json:"max_length"`
				Padding   string
				Truncate  bool  `json:"truncation"`
				Specials  *bool `json:"add_special_tokens"`
			}
			IDs    []int     `json:"input_ids"`
			Mask   []float32 `json:"attention_mask"`
			Decode *string
			Skip   *string `json:"decode_skip_special_tokens"`
		}
		DecodeCases []struct {
			IDs    []int
			Decode string
			Skip   string `json:"decode_skip_special_tokens"`
		} `json:"decode_cases"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Cases) == 0 {
		t.Fatal("no cases")
	}
	for _, c := range doc.Cases {
		tok := modality.Tokenizer{MaxLength: c.Options.MaxLength, Truncate: c.Options.Truncate,
			Bare: c.Options.Specials != nil && !*c.Options.Specials}
		ids, err := tok.Encode(c.Text)
		if c.Pair != nil {
			ids, err = tok.EncodePair(c.Text, *c.Pair)
		}
		if err != nil {
			t.Fatal(err)
		}
		mask := slices.Repeat([]float32{1}, len(ids))
		if c.Options.Padding == "max_length" {
			ids, mask = modality.Pad(ids, c.Options.MaxLength)
		}
		if !slices.Equal(ids, c.IDs) || !slices.Equal(mask, c.Mask) {
			t.Errorf("%q: ids %v, want %v", c.Text, ids, c.IDs)
		}
		if c.Decode != nil && (tok.Decode(ids, false) != *c.Decode || tok.Decode(ids, true) != *c.Skip) {
			t.Errorf("%q: decoded %q", c.Text, tok.Decode(ids, false))
		}
	}
	for _, c := range doc.DecodeCases {
		var tok modality.Tokenizer
		if got, skip := tok.Decode(c.IDs, false), tok.Decode(c.IDs, true); got != c.Decode || skip != c.Skip {
			t.Errorf("%v: decoded %q, %q", c.IDs, got, skip)
		}
	}
}

func TestTokenizerLimits(t *testing.T) {
	var tok modality.Tokenizer
	if ids, err := tok.Encode(strings.Repeat("x", 2046)); err != nil || len(ids) != 2048 {
		t.Errorf("2046 bytes: %d ids, %v", len(ids), err)
	}
	_, err := tok.Encode(strings.Repeat("x", 2047))
	if e := media.AsError(err); e.Code != media.TooLarge || e.Limit != 2048 || e.Actual != 2049 {
		t.Errorf("2047 bytes: %v", err)
	}
	tok.Truncate = true
	if ids, err := tok.Encode(strings.Repeat("x", 9999)); err != nil || len(ids) != 2048 || ids[2047] != modality.SEP {
		t.Errorf("cut: %d ids, %v", len(ids), err)
	}
}

// TestWindows: the windows cover the text, each within the length, and overlap as asked.
func TestWindows(t *testing.T) {
	tok := modality.Tokenizer{MaxLength: 12}
	text := "the quick brown fox jumps over the lazy dog"
	ws, err := tok.Windows(text, 3)
	if err != nil {
		t.Fatal(err)
	}
	joined := ""
	for i, w := range ws {
		if len(w.IDs) > 12 || w.Start != i*7 {
			t.Errorf("window %d: %d ids at %d", i, len(w.IDs), w.Start)
		}
		joined = joined[:w.Start] + tok.Decode(w.IDs, true)
	}
	if joined != text {
		t.Errorf("joined %q", joined)
	}
	if _, err := tok.Windows(text, 10); media.CodeOf(err) != media.BadOptions {
		t.Errorf("overlap of a whole window: %v", err)
	}
}

// readText adapts a text with code "id" and decodes the rows again.
func readText(t *testing.T, options string, data []byte) (string, *modality.Array) {
	t.Helper()
	a, err := open(t, "text", options).Adapt(t.Context(), media.Bytes("a.txt", data))
	if err != nil {
		t.Fatal(err)
	}
	m, c := a.Dims()
	dst := tensor.New(m, c)
	if err := a.Read(dst, 0, m); err != nil {
		t.Fatal(err)
	}
	ids := make([]int, m)
	for i := range ids {
		ids[i] = int(dst.Row(i)[0])
	}
	return string(modality.Tokenizer{}.DecodeBytes(ids, false)), a
}

func TestTextEncodings(t *testing.T) {
	const plain = `{"code": "id", "specials": false}`
	for _, c := range []struct{ name, in, want, note string }{
		{"plain", "abc", "abc", ""},
		{"UTF-8 mark", "\xef\xbb\xbfabc", "abc", "byte order mark dropped"},
		{"UTF-16 LE", "\xff\xfeh\x00\xe9\x00\x34\xd8\x1e\xdd", "hé𝄞", "UTF-16 made UTF-8"},
		{"UTF-16 BE", "\xfe\xff\x00h\x00\xe9", "hé", "UTF-16 made UTF-8"},
		{"lone surrogate", "\xff\xfe\x00\xd8x\x00", "\uFFFDx", "UTF-16 made UTF-8"},
		{"odd byte", "\xff\xfex\x00y", "x\uFFFD", "UTF-16 made UTF-8"},
		{"invalid bytes", "a\xff\xc0b", "a\xff\xc0b", "not UTF-8: bytes kept as they are"},
		{"specials are text", "[MASK]", "[MASK]", ""},
	} {
		got, a := readText(t, plain, []byte(c.in))
		if got != c.want || strings.Join(a.Notes, "; ") != c.note {
			t.Errorf("%s: %q, notes %q", c.name, got, a.Notes)
		}
	}
}

func TestTextRows(t *testing.T) {
	a := open(t, "text", `{"code": "bits", "position": "none"}`)
	array, err := a.Adapt(t.Context(), media.Bytes("", []byte{0x05}))
	if err != nil {
		t.Fatal(err)
	}
	dst := tensor.New(3, 9)
	if err := array.Read(dst, 0, 3); err != nil {
		t.Fatal(err)
	}
	want := []float32{-1, -1, 1, -1, -1, -1, -1, -1, 1, 1, -1, 1, -1, -1, -1, -1, -1, 0, 1, -1, 1, -1, -1, -1, -1, -1, 1}
	if !slices.Equal(dst.Data, want) {
		t.Errorf("rows %v", dst.Data)
	}
	// A byte's position code depends on its place alone.
	b := open(t, "text", `{"code": "id"}`)
	short, _ := b.Adapt(t.Context(), media.Bytes("", []byte("abc")))
	long, _ := b.Adapt(t.Context(), media.Bytes("", []byte(strings.Repeat("abc", 999))))
	_, c := short.Dims()
	one, two := tensor.New(1, c), tensor.New(1, c)
	if short.Read(one, 2, 3) != nil || long.Read(two, 2, 3) != nil || !slices.Equal(one.Data, two.Data) {
		t.Error("the same place has two codes")
	}
}

// FuzzTokenizer: bytes come back as they were, special tokens or not, and the text of any ids is
// valid UTF-8.
func FuzzTokenizer(f *testing.F) {
	for _, s := range []string{"", "x [MASK] y", "\xe6\x97", "[[CLS]", "\xf0\x90\x80", "\xed\xa0\x80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, tok := range []modality.Tokenizer{{MaxLength: 1 << 20}, {MaxLength: 1 << 20, Literal: true}} {
			ids, err := tok.Encode(s)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(tok.DecodeBytes(ids[1:len(ids)-1], false)); got != s {
				t.Errorf("%q came back as %q", s, got)
			}
			if text := tok.Decode(ids, false); !utf8.ValidString(text) || utf8.ValidString(s) && text != "[CLS]"+s+"[SEP]" {
				t.Errorf("%q decoded as %q", s, text)
			}
		}
	})
}

// BenchmarkImageRows reads the rows of the published Fourier image model's array.
func BenchmarkImageRows(b *testing.B) {
	array, err := open(b, "image", "").Adapt(b.Context(), media.Bytes("x.png", pngOf(b, 300, 256)))
	if err != nil {
		b.Fatal(err)
	}
	m, c := array.Dims()
	dst := tensor.New(256, c)
	for b.Loop() {
		for r := 0; r+256 <= m; r += 256 {
			if err := array.Read(dst, r, r+256); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(m)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}
