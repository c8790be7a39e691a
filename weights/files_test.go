package weights_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// reference returns a directory of the reference cases, ours or the environment's, and skips
// the test when neither has it.
func reference(t *testing.T, parts ...string) string {
	t.Helper()
	for _, root := range []string{filepath.Join("..", "testdata", "reference"), os.Getenv("MMSERVE_REFERENCE")} {
		dir := filepath.Join(append([]string{root}, parts...)...)
		if _, err := os.Stat(dir); root != "" && err == nil {
			return dir
		}
	}
	t.Skipf("no %s below testdata/reference; set MMSERVE_REFERENCE to a directory that has it", filepath.Join(parts...))
	return ""
}

func open(t *testing.T, path string) *weights.Checkpoint {
	t.Helper()
	src, err := weights.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src
}

// same checks that two sources hold the same tensors, compared as float32.
func same(t *testing.T, got, want weights.Source) {
	t.Helper()
	g, w := slices.Collect(got.Names()), slices.Collect(want.Names())
	if !slices.Equal(g, w) {
		t.Fatalf("names %v, want %v", g, w)
	}
	for _, name := range w {
		a, err := got.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := want.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(a.Shape, b.Shape) || !slices.Equal(a.Tensor().Data, b.Tensor().Data) {
			t.Errorf("%s: %v differs from %v", name, a.Shape, b.Shape)
		}
	}
}

func TestTorchEqualsSafetensors(t *testing.T) {
	dir := reference(t, "perceiver", "mlm_bin")
	same(t, open(t, filepath.Join(dir, "pytorch_model.bin")), open(t, filepath.Join(dir, "model.safetensors")))
}

func TestTorchViews(t *testing.T) {
	dir := reference(t, "perceiver", "bin_views")
	got, want := open(t, filepath.Join(dir, "pytorch_model.bin")), open(t, filepath.Join(dir, "expected.safetensors"))
	same(t, weights.Rename(got, func(n string) string {
		if _, _, ok := want.Stat(n); !ok {
			return ""
		}
		return n
	}), want)
}

// A training checkpoint wraps its names in "model_state_dict" and "module.".
func TestTorchWrapped(t *testing.T) {
	dir := reference(t, "resampler", "openflamingo-bf16-weights")
	same(t, open(t, filepath.Join(dir, "checkpoint.pt")), open(t, filepath.Join(dir, "model.safetensors")))
}

func TestTorchCheckpointOfFlamingo(t *testing.T) {
	dir := reference(t, "flamingo", "openflamingo-gptneox")
	same(t, open(t, filepath.Join(dir, "checkpoint.pt")), open(t, filepath.Join(dir, "checkpoint.safetensors")))
}

func TestTorchOneTensorAndDictionary(t *testing.T) {
	dir := reference(t, "flamingo", "wire-tensors")
	for file, name := range map[string]string{
		"prompt_embeds-f32.pt": "tensor", "minimal-bf16.pt": "tensor", "prompt_embeds-f16.pt": "tensor", "dict-f32.pt": "image_embeds",
	} {
		raw, err := open(t, filepath.Join(dir, file)).Load(name)
		if err != nil {
			t.Error(err)
		} else if raw.Numel() != 40 {
			t.Errorf("%s: shape %v", file, raw.Shape)
		}
	}
}

func TestSharded(t *testing.T) {
	dir := reference(t, "resampler", "idefics2-connector-sharded")
	src := open(t, dir)
	if src.Len() < 10 {
		t.Errorf("%d tensors", src.Len())
	}
	for name := range src.Names() {
		if _, err := src.Load(name); err != nil {
			t.Error(err)
		}
	}
}

// write makes a safetensors file of one ramp.
func write(t *testing.T, path string, names ...string) {
	t.Helper()
	m := map[string]tensor.Tensor{}
	for _, n := range names {
		m[n] = ramp(2, 3).Tensor()
	}
	var b bytes.Buffer
	if err := weights.WriteSafetensors(&b, m, weights.F32, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestIndexRefuses(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "out.safetensors")
	write(t, outside, "x")
	for name, c := range map[string]struct{ index, want string }{
		"fine":             {`{"metadata":{"total_size":48},"weight_map":{"x":"a.safetensors","y":"b.safetensors"}}`, ""},
		"traversal":        {`{"weight_map":{"x":"../out.safetensors"}}`, "plain file name"},
		"absolute":         {`{"weight_map":{"x":"` + filepath.ToSlash(outside) + `"}}`, "plain file name"},
		"empty name":       {`{"weight_map":{"x":""}}`, "plain file name"},
		"link outside":     {`{"weight_map":{"x":"link.safetensors"}}`, "shard link.safetensors"},
		"missing shard":    {`{"weight_map":{"x":"c.safetensors"}}`, "c.safetensors"},
		"wrong shard":      {`{"weight_map":{"x":"b.safetensors","y":"b.safetensors"}}`, `tensor "x" is not in shard b.safetensors`},
		"in both":          {`{"weight_map":{"x":"a.safetensors","y":"dup.safetensors"}}`, "appears twice"},
		"repeated key":     {`{"weight_map":{"x":"a.safetensors","x":"b.safetensors"}}`, "appears twice"},
		"no map":           {`{}`, "no weight_map"},
		"not an object":    {`[]`, "index"},
		"not a string":     {`{"weight_map":{"x":7}}`, "string"},
		"text at the end":  {`{"weight_map":{}} x`, "text after"},
		"index of indexes": {`{"weight_map":{"x":"model.safetensors.index.json"}}`, "shard"},
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "a.safetensors"), "x")
		write(t, filepath.Join(dir, "b.safetensors"), "y")
		write(t, filepath.Join(dir, "dup.safetensors"), "x", "y")
		if err := os.Symlink(outside, filepath.Join(dir, "link.safetensors")); err != nil {
			t.Logf("no links here: %v", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "model.safetensors.index.json"), []byte(c.index), 0o644); err != nil {
			t.Fatal(err)
		}
		src, err := weights.Open(dir)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
		if err == nil {
			src.Close()
		}
	}
}

// The Hugging Face cache keeps files as links into ../../blobs.
func TestHubCacheLinks(t *testing.T) {
	root := t.TempDir()
	blobs, snap := filepath.Join(root, "blobs"), filepath.Join(root, "snapshots", "rev")
	for _, d := range []string{blobs, snap} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(blobs, "hash"), "x")
	if err := os.Symlink(filepath.Join("..", "..", "blobs", "hash"), filepath.Join(snap, "model.safetensors")); err != nil {
		t.Skip(err)
	}
	if src := open(t, snap); src.Len() != 1 {
		t.Errorf("%d tensors", src.Len())
	}
}

func TestOpenRefuses(t *testing.T) {
	empty := t.TempDir()
	for _, path := range []string{empty, filepath.Join(empty, "missing.safetensors")} {
		if _, err := weights.Open(path); err == nil {
			t.Errorf("%s opens", path)
		}
	}
}

func TestImportAndInspect(t *testing.T) {
	dir := reference(t, "perceiver", "bin_views")
	out := filepath.Join(t.TempDir(), "out.safetensors")
	in := filepath.Join(dir, "pytorch_model.bin")
	if err := weights.Import(in, out); err != nil {
		t.Fatal(err)
	}
	same(t, open(t, out), open(t, in))
	a, err := weights.Inspect(in)
	if err != nil {
		t.Fatal(err)
	}
	b, err := weights.Inspect(out)
	if err != nil {
		t.Fatal(err)
	}
	if a.Parameters != b.Parameters || a.Bytes != b.Bytes || len(a.Tensors) != len(b.Tensors) || a.DTypes[weights.F32] == 0 {
		t.Errorf("before %+v, after %+v", a, b)
	}
	if b.Metadata["format"] != "pt" {
		t.Errorf("metadata %v", b.Metadata)
	}
	if err := weights.Import(filepath.Join(dir, "case.json"), out+"2"); err == nil {
		t.Error("case.json imports")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(out), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSafetensorsRoundTrip(t *testing.T) {
	x := tensor.Of([]float32{1, -2.5, 0x1p-20, 65504, 3.14159, -0}, 2, 3)
	for _, dt := range []weights.DType{weights.F32, weights.F16, weights.BF16, weights.F64} {
		var a, b bytes.Buffer
		meta := map[string]string{"note": "quotes \" and \u00e4\n"}
		m := map[string]tensor.Tensor{"b": x, "a": tensor.New(0, 4), "ü\"": tensor.New()}
		if err := weights.WriteSafetensors(&a, m, dt, meta); err != nil {
			t.Fatal(err)
		}
		src, err := weights.Parse("memory", a.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if src.Metadata()["note"] != meta["note"] || src.Len() != 3 {
			t.Errorf("metadata %q, %d tensors", src.Metadata(), src.Len())
		}
		raw, err := src.Load("b")
		if err != nil {
			t.Fatal(err)
		}
		want, _ := weights.Encode(x, dt)
		if raw.DType != dt || !bytes.Equal(raw.Data, want.Data) {
			t.Errorf("%s: %v", dt, raw)
		}
		if err := weights.CopySafetensors(&b, src, meta); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a.Bytes(), b.Bytes()) {
			t.Errorf("%s: a copy has other bytes", dt)
		}
	}
	if err := weights.WriteSafetensors(&bytes.Buffer{}, map[string]tensor.Tensor{"a": x}, weights.I64, nil); err == nil {
		t.Error("floats stored as I64")
	}
}

func TestTorchRoundTrip(t *testing.T) {
	m := map[string]tensor.Tensor{}
	for i := range 300 { // memo indexes beyond a byte
		m[strings.Repeat("n", i+1)] = tensor.Of([]float32{float32(i), 2, 3, 4, 5, 6}, 1, 2, 3, 1)
	}
	m["big"] = tensor.New(300, 300)
	m["scalar"] = tensor.Of([]float32{7})
	var b bytes.Buffer
	if err := weights.WriteTorchDict(&b, m, weights.F32); err != nil {
		t.Fatal(err)
	}
	got, err := weights.Parse("memory.pt", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	want := weights.Memory{}
	for n, x := range m {
		want[n], _ = weights.Encode(x, weights.F32)
	}
	same(t, got, want)
}

func TestNPYRoundTrip(t *testing.T) {
	for _, x := range []tensor.Tensor{tensor.Of([]float32{1, 2, 3, 4, 5, 6}, 2, 3), tensor.Of([]float32{9}), tensor.Of([]float32{1, 2}, 2), tensor.New(0, 3)} {
		for _, dt := range []weights.DType{weights.F32, weights.F16, weights.F64} {
			var b bytes.Buffer
			if err := weights.WriteNPY(&b, x, dt); err != nil {
				t.Fatal(err)
			}
			raw, err := weights.ReadNPY(&b, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if raw.DType != dt || !slices.Equal(raw.Shape, x.Shape) || !slices.Equal(raw.Tensor().Data, x.Data) {
				t.Errorf("%v as %s: %v", x.Shape, dt, raw)
			}
		}
	}
	if err := weights.WriteNPY(&bytes.Buffer{}, tensor.New(1), weights.BF16); err == nil {
		t.Error("BF16 npy written")
	}
}

// npy makes a file with that header.
func npy(version byte, header string, data string) string {
	n := len(header)
	if version == 1 {
		return "\x93NUMPY\x01\x00" + string([]byte{byte(n), byte(n >> 8)}) + header + data
	}
	return "\x93NUMPY" + string([]byte{version, 0, byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}) + header + data
}

func TestReadNPY(t *testing.T) {
	six := "\x01\x02\x03\x04\x05\x06"
	for name, c := range map[string]struct {
		file string
		want []float32 // nil: refused
	}{
		"bytes":         {npy(1, "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }\n", six), []float32{1, 2, 3, 4, 5, 6}},
		"version 2":     {npy(2, "{'descr': '|u1', 'fortran_order': False, 'shape': (6,), }\n", six), []float32{1, 2, 3, 4, 5, 6}},
		"fortran":       {npy(1, "{'descr': '|i1', 'fortran_order': True, 'shape': (2, 3), }\n", six), []float32{1, 3, 5, 2, 4, 6}},
		"big-endian":    {npy(3, "{'descr': '>u2', 'fortran_order': False, 'shape': (3,), }\n", six), []float32{0x102, 0x304, 0x506}},
		"any order":     {npy(1, `{"shape": (6), "fortran_order": False, "descr": "|b1"}`, six), []float32{1, 1, 1, 1, 1, 1}},
		"object":        {npy(1, "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", six), nil},
		"structure":     {npy(1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }\n", six), nil},
		"string":        {npy(1, "{'descr': '<U3', 'fortran_order': False, 'shape': (1,), }\n", six), nil},
		"short":         {npy(1, "{'descr': '|u1', 'fortran_order': False, 'shape': (7,), }\n", six), nil},
		"huge":          {npy(1, "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999,), }\n", six), nil},
		"overflow":      {npy(1, "{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 4), }\n", six), nil},
		"negative":      {npy(1, "{'descr': '|u1', 'fortran_order': False, 'shape': (-1,), }\n", six), nil},
		"repeated":      {npy(1, "{'descr': '|u1', 'descr': '|u1', 'fortran_order': False, 'shape': (6,), }\n", six), nil},
		"missing":       {npy(1, "{'descr': '|u1', 'shape': (6,), }\n", six), nil},
		"code":          {npy(1, "{'descr': '|u1', 'fortran_order': exit(), 'shape': (6,), }\n", six), nil},
		"version 9":     {npy(9, "{'descr': '|u1', 'fortran_order': False, 'shape': (6,), }\n", six), nil},
		"header lies":   {"\x93NUMPY\x02\x00\xff\xff\xff\xff{", nil},
		"no magic":      {"NUMPY", nil},
		"more than max": {npy(1, "{'descr': '|u1', 'fortran_order': False, 'shape': (2000,), }\n", strings.Repeat("x", 2000)), nil},
	} {
		raw, err := weights.ReadNPY(strings.NewReader(c.file), 1000)
		switch {
		case c.want == nil && err == nil:
			t.Errorf("%s: read as %v", name, raw)
		case c.want != nil && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != nil && !slices.Equal(raw.Tensor().Data, c.want):
			t.Errorf("%s: %v, want %v", name, raw.Tensor().Data, c.want)
		}
	}
}

// Every stored type widens to the same numbers.
func TestTypes(t *testing.T) {
	src := open(t, filepath.Join("..", "testdata", "media", "safetensors", "ok_f64_i64_u8_bool.safetensors"))
	for name := range src.Names() {
		raw, err := src.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		ints, err := raw.Ints()
		if raw.DType.Float() != (err != nil) {
			t.Errorf("%s of %s: %v", name, raw.DType, err)
		}
		for i, v := range ints {
			if raw.Tensor().Data[i] != float32(v) {
				t.Errorf("%s[%d] = %v, want %d", name, i, raw.Tensor().Data[i], v)
			}
		}
	}
	for dt, data := range map[weights.DType][]byte{
		weights.I32: {0xfe, 0xff, 0xff, 0xff}, weights.I16: {0xfe, 0xff}, weights.I8: {0xfe},
		weights.I64: {0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	} {
		if got := (weights.Raw{DType: dt, Shape: []int{1}, Data: data}).Tensor().Data[0]; got != -2 {
			t.Errorf("%s: %v, want -2", dt, got)
		}
	}
}
