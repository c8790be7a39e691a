package modality_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
)

// lateAdapter reads text under another name.
type lateAdapter struct {
	modality.Adapter
	info modality.Info
}

func (a lateAdapter) Info() modality.Info { return a.info }

// A medium that is registered while others are being detected is detected from then on.
func TestRegisterLate(t *testing.T) {
	name := fmt.Sprintf("late%d", len(modality.Names())) // free in every run of -count
	head := []byte("\x00LATE " + name)
	detect := func(head []byte) string {
		found, _, _ := modality.Detect(media.Header{Head: head, Size: int64(len(head))})
		return found
	}
	if got := detect(head); got != "" {
		t.Fatalf("detected %q before it is registered", got)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if got := detect([]byte("\x89PNG\r\n\x1a\n")); got != "image" {
					t.Errorf("a picture is %q", got)
				}
			}
		})
	}
	modality.Register(name, func(options json.RawMessage) (modality.Adapter, error) {
		if err := modality.Options(name, options, &struct{}{}); err != nil {
			return nil, err
		}
		text, err := modality.OpenText(nil)
		return lateAdapter{text, modality.Info{Name: name, Magic: []modality.Magic{{MediaType: "x/late", Bytes: head}}, Options: json.RawMessage(`{}`)}}, err
	})
	if got := detect(head); got != name {
		t.Errorf("detected %q, want %q", got, name)
	}
	wg.Wait()
	if !slices.ContainsFunc(modality.Infos(), func(i modality.Info) bool { return i.Name == name }) {
		t.Errorf("%s is not among the infos", name)
	}
}

// BenchmarkDetect is what finding the medium of a short text and of a picture takes.
func BenchmarkDetect(b *testing.B) {
	for name, h := range map[string]media.Header{
		"text":    {Head: []byte("a short text of thirty-six bytes, ok"), Size: 36},
		"picture": {Head: append([]byte("\x89PNG\r\n\x1a\n"), make([]byte, 100)...), MediaType: "image/png", Size: 1000},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := modality.Detect(h); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
