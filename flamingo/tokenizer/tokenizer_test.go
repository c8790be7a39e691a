package tokenizer_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mmserve/mmserve/flamingo/tokenizer"
)

// expected is what the tokenizers library (0.23.3) gives for a tokenizer that it made.
type expected struct {
	Size  int
	Cases []struct {
		Text       string
		IDs, Plain []int
		Decoded    string
		DecodedAll string `json:"decoded_all"`
	}
	Random []struct {
		IDs     []int
		Decoded string
	}
}

var names = []string{"neox", "qwen2", "opt", "llama", "mistral", "unigram"}

func load(t testing.TB, name string) (*tokenizer.Tokenizer, expected) {
	t.Helper()
	tok, err := tokenizer.Open(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var e expected
	data, err := os.ReadFile(filepath.Join("testdata", name+".cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &e); err != nil {
		t.Fatal(err)
	}
	return tok, e
}

func TestAgainstTheLibrary(t *testing.T) {
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			tok, e := load(t, name)
			if tok.Size() != e.Size {
				t.Errorf("size %d, want %d", tok.Size(), e.Size)
			}
			for _, c := range e.Cases {
				if got := tok.Encode(c.Text, true); !slices.Equal(got, c.IDs) {
					t.Errorf("%q:\n got %v\nwant %v", c.Text, got, c.IDs)
				}
				if got := tok.Encode(c.Text, false); !slices.Equal(got, c.Plain) {
					t.Errorf("%q without template:\n got %v\nwant %v", c.Text, got, c.Plain)
				}
				if got := tok.Decode(c.IDs, true); got != c.Decoded {
					t.Errorf("%v decodes to %q, want %q", c.IDs, got, c.Decoded)
				}
				if got := tok.Decode(c.IDs, false); got != c.DecodedAll {
					t.Errorf("%v decodes to %q, want %q", c.IDs, got, c.DecodedAll)
				}
			}
			for _, c := range e.Random {
				if got := tok.Decode(c.IDs, true); got != c.Decoded {
					t.Errorf("%v decodes to %q, want %q", c.IDs, got, c.Decoded)
				}
			}
		})
	}
}

// A stream gives the whole text, and every part of it is whole characters.
func TestStream(t *testing.T) {
	for _, name := range names {
		tok, e := load(t, name)
		for _, c := range e.Cases {
			var b strings.Builder
			s := tok.NewStream()
			for _, id := range c.IDs {
				part := s.Push(id)
				if !utf8.ValidString(part) {
					t.Errorf("%s: %q is cut inside a character", name, part)
				}
				b.WriteString(part)
			}
			b.WriteString(s.Flush())
			if b.String() != c.Decoded {
				t.Errorf("%s: streamed %q, want %q", name, b.String(), c.Decoded)
			}
		}
	}
}

func TestWith(t *testing.T) {
	tok, _ := load(t, "qwen2")
	more := tok.With("<|endofchunk|>", "<image>", "<PAD>")
	if more.Size() != tok.Size()+2 { // <image> is known
		t.Fatalf("size %d after %d", more.Size(), tok.Size())
	}
	id, _ := more.ID("<|endofchunk|>")
	if got := more.Encode("<|endofchunk|>", false); len(got) != 1 || got[0] != id || id != tok.Size() {
		t.Errorf("encoded to %v, id %d", got, id)
	}
	if more.Decode([]int{id}, true) != "" || more.Decode([]int{id}, false) != "<|endofchunk|>" {
		t.Error("an added token is special")
	}
	if _, ok := tok.ID("<|endofchunk|>"); ok {
		t.Error("With changed its receiver")
	}
}

func TestUnknownPartsAreNamed(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{`{"model":{"type":"WordPiece","vocab":{}}}`, "WordPiece"},
		{`{"model":{"type":"BPE","vocab":{},"merges":["a b"]}}`, "merge 0"},
		{`{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"normalizer":{"type":"BertNormalizer"}}`, "BertNormalizer"},
		{`{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(?=a)"},"behavior":"Isolated"}}`, "looks ahead"},
		{`{"model":{"type":"BPE","vocab":{"a":-4},"merges":[]}}`, "-4"},
		{`{"model":{"type":"Unigram","vocab":[["a",0]],"unk_id":7}}`, "unk_id 7"},
		{`[]`, "tokenizer"},
	} {
		if _, err := tokenizer.Parse([]byte(c.file)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.file, err, c.want)
		}
	}
}

func FuzzEncode(f *testing.F) {
	var toks []*tokenizer.Tokenizer
	for _, name := range names {
		tok, e := load(f, name)
		toks = append(toks, tok)
		for _, c := range e.Cases[:20] {
			f.Add(c.Text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		for i, tok := range toks {
			ids := tok.Encode(text, true)
			for _, id := range ids {
				if id < 0 || id >= tok.Size() {
					t.Fatalf("id %d of %d", id, tok.Size())
				}
			}
			if back := tok.Decode(ids, false); !utf8.ValidString(back) {
				t.Fatalf("%q is no UTF-8", back)
			} else if names[i] == "qwen2" && utf8.ValidString(text) && isASCII(text) && back != text {
				t.Fatalf("%q came back as %q", text, back)
			}
		}
	})
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > 127 }) < 0
}

func FuzzParse(f *testing.F) {
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join("testdata", name+".json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if tok, err := tokenizer.Parse(data); err == nil {
			tok.Decode(tok.Encode("Hello, wörld! <image>", true), true)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	for _, name := range names {
		b.Run(name, func(b *testing.B) {
			tok, _ := load(b, name)
			text := strings.Repeat("A picture of two cats on a sofa, and a remote control. ", 20)
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				tok.Encode(text, true)
			}
		})
	}
}
