package weights

import (
	"encoding/binary"
	"strings"
	"testing"
)

// legacyFile is what torch.save wrote before version 1.6 for {"w": [[1, 2], [3, 4]]}, key k.
func legacyFile(little bool, numel uint64, tail string) []byte {
	var out []byte
	p := pickler{memo: map[string]int{}}
	p.raw("\x80\x02\x8a\x0a" + string(torchMagic) + ".")
	p.raw("\x80\x02M\xe9\x03.")
	p.raw("\x80\x02}")
	p.text("little_endian")
	p.raw(map[bool]string{true: "\x88", false: "\x89"}[little] + "s.")
	out = append(out, p.out...)
	p = pickler{memo: map[string]int{}}
	p.raw("\x80\x02}")
	p.text("w")
	p.global("torch._utils", "_rebuild_tensor_v2")
	p.raw("((")
	p.text("storage")
	p.global("torch", "FloatStorage")
	p.text("94281")
	p.text("cpu")
	p.int(4)
	p.raw("NtQK\x00")
	p.tuple([]int{2, 2})
	p.tuple([]int{2, 1})
	p.raw("\x89")
	p.global("collections", "OrderedDict")
	p.raw(")RtRs.")
	out = append(out, p.out...)
	p = pickler{memo: map[string]int{}}
	p.raw("\x80\x02]")
	p.text("94281")
	p.raw("a.")
	out = binary.LittleEndian.AppendUint64(append(out, p.out...), numel)
	out = appendFloats(out, []float32{1, 2, 3, 4}, F32)
	return append(out, tail...)
}

func TestLegacyTorch(t *testing.T) {
	src, err := Parse("old.bin", legacyFile(true, 4, ""))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := src.Load("w")
	if err != nil {
		t.Fatal(err)
	}
	x := raw.Tensor()
	if x.At(1).Data[0] != 3 || len(x.Shape) != 2 {
		t.Errorf("w = %v", x)
	}
	for name, file := range map[string][]byte{
		"big-endian machine": legacyFile(false, 4, ""),
		"count lies":         legacyFile(true, 1<<62, ""),
		"short storage":      legacyFile(true, 3, "1234"),
		"bytes at the end":   legacyFile(true, 4, "x"),
		"cut":                legacyFile(true, 4, "")[:200],
	} {
		if _, err := Parse("old.bin", file); err == nil {
			t.Errorf("%s: loads", name)
		}
	}
}

// Streams that make far more than they are long end in an error, soon and in little memory.
func TestPickleBombs(t *testing.T) {
	dicts := "\x80\x02}q\x000"
	for i := range 40 { // each dictionary holds the one before it a hundred times
		dicts += "}q" + string(rune(i+1)) + "("
		for j := range 100 {
			dicts += "X\x02\x00\x00\x00" + string([]byte{byte('0' + j/10), byte('0' + j%10)}) + "h" + string(rune(i))
		}
		dicts += "u0"
	}
	for name, stream := range map[string]string{
		"marks":   "\x80\x02" + strings.Repeat("(", 1<<20),
		"dicts":   "\x80\x02" + strings.Repeat("}", 16<<20),
		"opcodes": "\x80\x02N" + strings.Repeat("20", maxPickleOps/2+1),
		"nested":  dicts + "h\x28.",
		"wide":    dicts + "h\x04.",
	} {
		root, _, err := unpickle([]byte(stream))
		if err == nil {
			_, err = flatten(root)
		}
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

func TestSelfReference(t *testing.T) {
	root, _, err := unpickle([]byte("\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := flatten(root); err == nil {
		t.Error("a dictionary that holds itself is flattened")
	}
}
