package tokenizer_test

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/flamingo/tokenizer"
)

// charsMapped is a tokenizer whose normaliser is a charsmap and whose tokens are characters.
func charsMapped(blob string, chars []string) ([]byte, error) {
	vocab := [][2]any{{"<unk>", -10.0}}
	for _, c := range chars {
		vocab = append(vocab, [2]any{c, -1.0})
	}
	return json.Marshal(map[string]any{
		"normalizer": map[string]string{"type": "Precompiled", "precompiled_charsmap": blob},
		"model":      map[string]any{"type": "Unigram", "vocab": vocab, "unk_id": 0},
		"decoder":    map[string]string{"type": "Fuse"},
	})
}

// The map was compiled by SentencePiece from a few rules; what texts become is what the
// tokenizers library (0.20.3) makes of them with it.
func TestCharsMap(t *testing.T) {
	data, err := os.ReadFile("testdata/charsmap.json")
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		Map   string
		Cases []struct{ Text, Want string }
	}
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	var chars []string
	for _, c := range f.Cases {
		chars = append(chars, strings.Split(c.Want, "")...)
	}
	slices.Sort(chars)
	file, err := charsMapped(f.Map, slices.Compact(chars))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range f.Cases {
		if got := tok.Decode(tok.Encode(c.Text, false), false); got != c.Want {
			t.Errorf("%+q becomes %+q, want %+q", c.Text, got, c.Want)
		}
	}
}

func TestBadCharsMaps(t *testing.T) {
	claim := binary.LittleEndian.AppendUint32(nil, 400)
	for _, blob := range []string{"", "****", "AAA=", base64.StdEncoding.EncodeToString(claim), base64.StdEncoding.EncodeToString(make([]byte, 8))} {
		file, err := charsMapped(blob, []string{"a"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tokenizer.Parse(file); err == nil || !strings.Contains(err.Error(), "precompiled_charsmap") {
			t.Errorf("%q: %v", blob, err)
		}
	}
}

// A map of arbitrary units neither fails nor reads beyond its arrays.
func FuzzCharsMap(f *testing.F) {
	f.Add([]byte{0, 4, 0, 0, 97, 1, 0, 0, 0, 0, 0, 0}, "ab")
	f.Fuzz(func(t *testing.T, units []byte, text string) {
		units = units[:len(units)/4*4]
		blob := append(binary.LittleEndian.AppendUint32(nil, uint32(len(units))), units...)
		file, err := charsMapped(base64.StdEncoding.EncodeToString(append(blob, "x\x00"...)), []string{"a"})
		if err != nil {
			t.Fatal(err)
		}
		if tok, err := tokenizer.Parse(file); err == nil {
			tok.Encode(text, false)
		}
	})
}
