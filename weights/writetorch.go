package weights

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math"
	"slices"

	"github.com/mmserve/mmserve/tensor"
)

// torchStorages are PyTorch's storage classes.
var torchStorages = map[DType]string{
	F64: "DoubleStorage", F32: "FloatStorage", F16: "HalfStorage", BF16: "BFloat16Storage",
	I64: "LongStorage", I32: "IntStorage", I16: "ShortStorage", I8: "CharStorage",
	U8: "ByteStorage", Bool: "BoolStorage",
}

// archiveName is the folder inside a torch file, as torch.save to a buffer names it.
const archiveName = "archive"

// WriteTorch writes t as torch.save does (a zip of stored entries, pickle protocol 2), stored
// as F32, F16, BF16 or F64. torch.load(weights_only=True) reads it.
func WriteTorch(w io.Writer, t tensor.Tensor, dt DType) error {
	o, err := floats("", t, dt)
	if err != nil {
		return err
	}
	return writeTorch(w, archiveName, []outgoing{o}, false)
}

// WriteTorchDict writes a dictionary of tensors as torch.save does, keys sorted.
func WriteTorchDict(w io.Writer, tensors map[string]tensor.Tensor, dt DType) error {
	var list []outgoing
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		o, err := floats(name, tensors[name], dt)
		if err != nil {
			return err
		}
		list = append(list, o)
	}
	return writeTorch(w, archiveName, list, true)
}

// WriteTorchRaw writes a tensor as torch.save does, in its own type.
func WriteTorchRaw(w io.Writer, r Raw) error {
	return writeTorch(w, archiveName, []outgoing{stored("", r)}, false)
}

// writeTorch writes one tensor, or a dictionary. The bytes are those of PyTorch 1.13 for the
// same archive name: every entry's data starts on 64 bytes, sizes follow in descriptors.
func writeTorch(w io.Writer, archive string, list []outgoing, dict bool) error {
	p := pickler{memo: map[string]int{}}
	p.raw("\x80\x02")
	if dict {
		p.raw("}")
		p.put()
	}
	switch {
	case !dict:
		if err := p.tensor(list[0], 0); err != nil {
			return err
		}
	case len(list) == 1:
		p.text(list[0].name)
		if err := p.tensor(list[0], 0); err != nil {
			return err
		}
		p.raw("s")
	default:
		if err := p.items(list); err != nil {
			return err
		}
	}
	p.raw(".")
	z := zipWriter{w: w, archive: archive}
	z.entry("data.pkl", func(w io.Writer) error { _, err := w.Write(p.out); return err })
	for i, o := range list {
		z.entry(fmt.Sprintf("data/%d", i), o.write)
	}
	z.entry("version", func(w io.Writer) error { _, err := io.WriteString(w, "3\n"); return err })
	z.close()
	return z.err
}

// pickler writes pickle protocol 2 the way CPython does, memo included.
type pickler struct {
	out  []byte
	memo map[string]int
	puts int
}

func (p *pickler) raw(s string) { p.out = append(p.out, s...) }

// put memoises the top of the stack.
func (p *pickler) put() int {
	n := p.puts
	p.puts++
	if n < 256 {
		p.out = append(p.out, 'q', byte(n))
	} else {
		p.out = binary.LittleEndian.AppendUint32(append(p.out, 'r'), uint32(n))
	}
	return n
}

// again pushes what key stands for, if it was pushed before.
func (p *pickler) again(key string) bool {
	n, ok := p.memo[key]
	if !ok {
		return false
	}
	if n < 256 {
		p.out = append(p.out, 'h', byte(n))
	} else {
		p.out = binary.LittleEndian.AppendUint32(append(p.out, 'j'), uint32(n))
	}
	return true
}

func (p *pickler) text(s string) {
	if p.again("s" + s) {
		return
	}
	p.out = binary.LittleEndian.AppendUint32(append(p.out, 'X'), uint32(len(s)))
	p.raw(s)
	p.memo["s"+s] = p.put()
}

func (p *pickler) global(module, name string) {
	key := "c" + module + "." + name
	if p.again(key) {
		return
	}
	p.raw("c" + module + "\n" + name + "\n")
	p.memo[key] = p.put()
}

func (p *pickler) int(n int) {
	switch {
	case n < 1<<8:
		p.out = append(p.out, 'K', byte(n))
	case n < 1<<16:
		p.out = append(p.out, 'M', byte(n), byte(n>>8))
	case n <= math.MaxInt32:
		p.out = binary.LittleEndian.AppendUint32(append(p.out, 'J'), uint32(n))
	default:
		b := binary.LittleEndian.AppendUint64(nil, uint64(n))
		for b[len(b)-1] == 0 && b[len(b)-2] < 0x80 {
			b = b[:len(b)-1]
		}
		p.out = append(append(p.out, 0x8a, byte(len(b))), b...)
	}
}

// tuple writes a tuple of whole numbers.
func (p *pickler) tuple(v []int) {
	if len(v) == 0 {
		p.raw(")")
		return
	}
	if len(v) > 3 {
		p.raw("(")
	}
	for _, n := range v {
		p.int(n)
	}
	if len(v) > 3 {
		p.raw("t")
	} else {
		p.out = append(p.out, "\x85\x86\x87"[len(v)-1])
	}
	p.put()
}

// tensor writes the call that rebuilds a contiguous tensor from storage number key.
func (p *pickler) tensor(o outgoing, key int) error {
	class, ok := torchStorages[o.dtype]
	if !ok {
		return fmt.Errorf("weights: torch has no storage for %s", o.dtype)
	}
	n := tensor.Size(o.shape)
	strides, step := make([]int, len(o.shape)), 1
	for i := len(o.shape) - 1; i >= 0; i-- {
		strides[i] = step
		step *= max(o.shape[i], 1)
	}
	p.global("torch._utils", "_rebuild_tensor_v2")
	p.raw("((")
	p.text("storage")
	p.global("torch", class)
	p.text(fmt.Sprint(key))
	p.text("cpu")
	p.int(n)
	p.raw("t")
	p.put()
	p.raw("Q")
	p.int(0)
	p.tuple(o.shape)
	p.tuple(strides)
	p.raw("\x89")
	p.global("collections", "OrderedDict")
	p.raw(")R")
	p.put()
	p.raw("t")
	p.put()
	p.raw("R")
	p.put()
	return nil
}

// items writes the entries of a dictionary, in batches of a thousand.
func (p *pickler) items(list []outgoing) error {
	i := 0
	for batch := range slices.Chunk(list, 1000) {
		p.raw("(")
		for _, o := range batch {
			p.text(o.name)
			if err := p.tensor(o, i); err != nil {
				return err
			}
			i++
		}
		p.raw("u")
	}
	return nil
}

// zipWriter writes stored entries as PyTorch's writer lays them out.
type zipWriter struct {
	w       io.Writer
	archive string
	at      int64
	entries []zipEntry
	err     error
}

type zipEntry struct {
	name string
	crc  uint32
	size int64
	at   int64
}

// Write counts and keeps the first error.
func (z *zipWriter) Write(b []byte) (int, error) {
	if z.err != nil {
		return 0, z.err
	}
	n, err := z.w.Write(b)
	z.at += int64(n)
	z.err = err
	return n, err
}

func le(b []byte, fields ...any) []byte {
	for _, f := range fields {
		switch v := f.(type) {
		case uint16:
			b = binary.LittleEndian.AppendUint16(b, v)
		case uint32:
			b = binary.LittleEndian.AppendUint32(b, v)
		case uint64:
			b = binary.LittleEndian.AppendUint64(b, v)
		case string:
			b = append(b, v...)
		}
	}
	return b
}

// Bits 3 and 11: sizes in a descriptor, names in UTF-8.
const zipFlags = uint16(0x0808)

func (z *zipWriter) entry(name string, write func(io.Writer) error) {
	if z.err != nil {
		return
	}
	e := zipEntry{name: z.archive + "/" + name, at: z.at}
	start := z.at + 30 + int64(len(e.name)) + 4
	pad := (64 - start%64) % 64
	head := le(nil, "PK\x03\x04", uint16(0), zipFlags, uint16(0), uint16(0), uint16(0),
		uint32(0), uint32(0), uint32(0), uint16(len(e.name)), uint16(4+pad), e.name, "FB", uint16(pad))
	for range pad {
		head = append(head, 'Z')
	}
	z.Write(head)
	sum := crc32.NewIEEE()
	from := z.at
	if err := write(io.MultiWriter(z, sum)); err != nil && z.err == nil {
		z.err = err
	}
	e.size, e.crc = z.at-from, sum.Sum32()
	if z.err == nil && (e.size > math.MaxUint32 || z.at > math.MaxUint32) {
		z.err = fmt.Errorf("weights: torch file of more than %d bytes", uint32(math.MaxUint32))
	}
	z.Write(le(nil, "PK\x07\x08", e.crc, uint32(e.size), uint32(e.size)))
	z.entries = append(z.entries, e)
}

// close writes the directory and both kinds of its end.
func (z *zipWriter) close() {
	from := z.at
	for _, e := range z.entries {
		z.Write(le(nil, "PK\x01\x02", uint16(0), uint16(0), zipFlags, uint16(0), uint16(0), uint16(0),
			e.crc, uint32(e.size), uint32(e.size), uint16(len(e.name)), uint16(0), uint16(0),
			uint16(0), uint16(0), uint32(0), uint32(e.at), e.name))
	}
	end, n := z.at, len(z.entries)
	size := end - from
	few := uint16(min(n, math.MaxUint16))
	z.Write(le(nil, "PK\x06\x06", uint64(44), uint16(0x031e), uint16(0x2d), uint32(0), uint32(0),
		uint64(n), uint64(n), uint64(size), uint64(from)))
	z.Write(le(nil, "PK\x06\x07", uint32(0), uint64(end), uint32(1)))
	z.Write(le(nil, "PK\x05\x06", uint16(0), uint16(0), few, few, uint32(size), uint32(from), uint16(0)))
}
