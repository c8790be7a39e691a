package weights_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/mmserve/mmserve/weights"
)

func TestHashCheckValues(t *testing.T) {
	if got := weights.Hash64("a"); got != 0xaf63dc4c8601ec8c {
		t.Errorf("Hash64(a) = %#x", got)
	}
	if a, b := weights.HashAt("a", 0), weights.HashAt("a", 1); a != 0x5f29c2aadd9b8527 || b != 0xff84f1bdb6d3884f {
		t.Errorf("HashAt(a, 0 and 1) = %#x, %#x", a, b)
	}
}

func TestSeededCheckValues(t *testing.T) {
	path := filepath.Join("..", "testdata", "reference", "fullsize", "language-perceiver", "names.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Tensors []weights.Spec }
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	src := weights.Seeded(file.Tensors...)
	for name, want := range map[string][]float32{
		"perceiver.embeddings.latents":                       {0.42049599, -0.00249399, 0.39545101},
		"perceiver.encoder.cross_attention.layernorm.weight": {0.91537124},
	} {
		if name == "perceiver.encoder.cross_attention.layernorm.weight" {
			got := make([]float32, 1)
			weights.Uniform(got, name, 0, 1, 0.1)
			if math.Abs(float64(got[0]-want[0])) > 1e-8 {
				t.Errorf("%s = %v, want %v", name, got, want)
			}
			continue
		}
		raw, err := src.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		got := raw.Tensor().Data
		for i, w := range want {
			if math.Abs(float64(got[i]-w)) > 1e-8 {
				t.Errorf("%s[%d] = %v, want %v", name, i, got[i], w)
			}
		}
	}
}
