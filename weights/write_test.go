package weights

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/mmserve/mmserve/tensor"
)

var wire = filepath.Join("..", "testdata", "reference", "flamingo", "wire-tensors")

func wireFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(wire, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wireValues is the tensor of the wire fixtures.
func wireValues(t *testing.T) tensor.Tensor {
	t.Helper()
	src, err := Open(filepath.Join(wire, "values.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	for name := range src.Names() {
		raw, err := src.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		if raw.DType == F32 && raw.Numel() == 40 {
			return raw.Tensor().Reshape(5, 8)
		}
	}
	t.Fatal("no float32 tensor of 40 values")
	return tensor.Tensor{}
}

func TestTorchBytesEqualPyTorch(t *testing.T) {
	v := wireValues(t)
	for dt, file := range map[DType]string{F32: "prompt_embeds-f32", F16: "prompt_embeds-f16", BF16: "prompt_embeds-bf16"} {
		o, err := floats("", v, dt)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := writeTorch(&b, file, []outgoing{o}, false); err != nil {
			t.Fatal(err)
		}
		if want := wireFile(t, file+".pt"); !bytes.Equal(b.Bytes(), want) {
			t.Errorf("%s: %d bytes differ from torch.save's %d", file, b.Len(), len(want))
		}
	}
	o, _ := floats("image_embeds", v.Reshape(1, 5, 8), F32)
	var b bytes.Buffer
	if err := writeTorch(&b, "dict-f32", []outgoing{o}, true); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), wireFile(t, "dict-f32.pt")) {
		t.Error("dict-f32: bytes differ from torch.save's")
	}
}

func TestNPYBytesEqualNumPy(t *testing.T) {
	var b bytes.Buffer
	if err := WriteNPY(&b, wireValues(t).Reshape(1, 5, 8), F32); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), wireFile(t, "image_embeds-f32.npy")) {
		t.Error("image_embeds-f32.npy: bytes differ from numpy.save's")
	}
}
