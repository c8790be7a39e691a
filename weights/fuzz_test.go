package weights

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// seedFiles adds every file of a media folder.
func seedFiles(f *testing.F, dir string) {
	f.Helper()
	paths, err := filepath.Glob(filepath.Join("..", "testdata", "media", dir, "*"))
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds in %s: %v", dir, err)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// readAll loads every tensor of a checkpoint that parsed, and checks what must hold.
func readAll(t *testing.T, src *Checkpoint) {
	for name := range src.Names() {
		dt, shape, ok := src.Stat(name)
		if !ok {
			t.Fatalf("%q is listed and has no shape", name)
		}
		n, size, err := byteSize(dt, shape)
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		if size > 1<<20 {
			continue
		}
		raw, err := src.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(raw.Data)) != size || int64(len(raw.Tensor().Data)) != n {
			t.Fatalf("%q: %d bytes for %v of %s", name, len(raw.Data), shape, dt)
		}
	}
}

func FuzzSafetensors(f *testing.F) {
	seedFiles(f, "safetensors")
	f.Fuzz(func(t *testing.T, data []byte) {
		src, err := Parse("fuzz.safetensors", data)
		if err != nil {
			return
		}
		readAll(t, src)
		var b bytes.Buffer
		if err := CopySafetensors(&b, src, src.Metadata()); err != nil {
			t.Fatal(err)
		}
		again, err := Parse("again.safetensors", b.Bytes())
		if err != nil {
			t.Fatalf("what was written does not read: %v", err)
		}
		if again.Len() != src.Len() {
			t.Fatalf("%d tensors, then %d", src.Len(), again.Len())
		}
	})
}

func FuzzTorch(f *testing.F) {
	seedFiles(f, "torch")
	f.Fuzz(func(t *testing.T, data []byte) {
		if src, err := Parse("fuzz.pt", data); err == nil {
			readAll(t, src)
		}
	})
}

func FuzzPickle(f *testing.F) {
	seedFiles(f, "pickle")
	f.Add(legacyFile(true, 4, ""))
	if src, err := Open(filepath.Join("..", "testdata", "media", "torch", "ok_dict.pt")); err == nil {
		z, err := readZip(src.files[0], int64(len(mustBytes(f, filepath.Join("..", "testdata", "media", "torch", "ok_dict.pt")))))
		if err != nil {
			f.Fatal(err)
		}
		b, err := z.read("data.pkl", maxPickle)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		src.Close()
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if root, _, err := unpickle(data); err == nil {
			list, err := flatten(root)
			if err != nil {
				return
			}
			for _, n := range list {
				if numel, span, _, err := n.tensor.layout(); err == nil && (numel < 0 || span < 0 || span > n.tensor.storage.numel) {
					t.Fatalf("%q: %d elements over %d of %d", n.name, numel, span, n.tensor.storage.numel)
				}
			}
		}
		if src, err := Parse("fuzz.bin", data); err == nil {
			readAll(t, src)
		}
		if src, err := Parse("fuzz.pt", zipped(data)); err == nil {
			readAll(t, src)
		}
	})
}

// zipped puts a pickle into a torch file with two small storages.
func zipped(pickle []byte) []byte {
	var b bytes.Buffer
	z := zipWriter{w: &b, archive: "a"}
	for _, e := range []struct {
		name string
		data []byte
	}{{"data.pkl", pickle}, {"data/0", make([]byte, 64)}, {"data/1", make([]byte, 8)}} {
		z.entry(e.name, func(w io.Writer) error { _, err := w.Write(e.data); return err })
	}
	z.close()
	return b.Bytes()
}

func mustBytes(f *testing.F, path string) []byte {
	f.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	return b
}

func FuzzNPY(f *testing.F) {
	f.Add(mustBytes(f, filepath.Join(wire, "image_embeds-f32.npy")))
	f.Add([]byte("\x93NUMPY\x02\x00\x40\x00\x00\x00{'descr': '>u2', 'fortran_order': True, 'shape': (2, 3), }       \nabcdefghijkl"))
	f.Fuzz(func(t *testing.T, data []byte) {
		raw, err := ReadNPY(bytes.NewReader(data), 1<<20)
		if err != nil {
			return
		}
		if raw.Numel() != len(raw.Tensor().Data) {
			t.Fatalf("%d elements, %v", raw.Numel(), raw.Shape)
		}
		var b bytes.Buffer
		if err := WriteNPYRaw(&b, raw); err != nil {
			t.Fatal(err)
		}
		again, err := ReadNPY(&b, 1<<20)
		if err != nil || !bytes.Equal(again.Data, raw.Data) {
			t.Fatalf("what was written reads as %v, %v", again, err)
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add(`{"metadata":{"total_size":48},"weight_map":{"x":"a.safetensors","y":"b.safetensors"}}`)
	f.Add(`{"weight_map":{"x":"../a"}}`)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		where, err := parseIndex(strings.NewReader(text))
		if err != nil {
			return
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		for _, file := range where {
			if opened, err := openIn(root, file); err == nil {
				opened.Close()
				t.Fatalf("%q opens in an empty directory", file)
			}
		}
	})
}
