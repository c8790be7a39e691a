package weights

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/mmserve/mmserve/tensor"
)

// chunkValues is how many values are converted at a time on the way out.
const chunkValues = 1 << 14

// outgoing is a tensor to be written: its stored type, its shape, and a way to write its
// bytes.
type outgoing struct {
	name  string
	dtype DType
	shape []int
	write func(io.Writer) error
}

// bytes is the stored size.
func (o outgoing) bytes() int64 {
	_, n, err := byteSize(o.dtype, o.shape)
	if err != nil {
		panic("weights: " + err.Error()) // shapes of tensors in memory or already checked
	}
	return n
}

// floats is a float tensor, to be stored as dt.
func floats(name string, t tensor.Tensor, dt DType) (outgoing, error) {
	if !dt.Float() {
		return outgoing{}, fmt.Errorf("weights: cannot store floats as %q", clip(string(dt)))
	}
	return outgoing{name, dt, t.Shape, func(w io.Writer) error {
		buf := make([]byte, 0, dt.Size()*min(chunkValues, len(t.Data)))
		for chunk := range slices.Chunk(t.Data, chunkValues) {
			if _, err := w.Write(appendFloats(buf[:0], chunk, dt)); err != nil {
				return err
			}
		}
		return nil
	}}, nil
}

// stored is a tensor written as it is.
func stored(name string, r Raw) outgoing {
	return outgoing{name, r.DType, r.Shape, func(w io.Writer) error {
		_, err := w.Write(r.Data)
		return err
	}}
}

// WriteSafetensors writes tensors as a safetensors file, stored as dt (F32, F16, BF16 or
// F64, rounded to nearest even), with metadata if there is any. The same input gives the
// same bytes.
func WriteSafetensors(w io.Writer, tensors map[string]tensor.Tensor, dt DType, metadata map[string]string) error {
	var list []outgoing
	for name, t := range tensors {
		o, err := floats(name, t, dt)
		if err != nil {
			return err
		}
		list = append(list, o)
	}
	return writeSafetensors(w, list, metadata)
}

// CopySafetensors writes every tensor of src, as stored, as a safetensors file. One tensor is
// in memory at a time.
func CopySafetensors(w io.Writer, src Source, metadata map[string]string) error {
	var list []outgoing
	for name := range src.Names() {
		dt, shape, _ := src.Stat(name)
		if _, _, err := byteSize(dt, shape); err != nil {
			return fmt.Errorf("weights: tensor %q: %w", clip(name), err)
		}
		list = append(list, outgoing{name, dt, shape, func(w io.Writer) error {
			raw, err := src.Load(name)
			if err != nil {
				return err
			}
			_, err = w.Write(raw.Data)
			drop(src, name)
			return err
		}})
	}
	return writeSafetensors(w, list, metadata)
}

// writeSafetensors orders tensors as the reference implementation does: wide types first, so
// that everything is aligned, then by name.
func writeSafetensors(w io.Writer, list []outgoing, metadata map[string]string) error {
	slices.SortFunc(list, func(a, b outgoing) int {
		if d := b.dtype.Size() - a.dtype.Size(); d != 0 {
			return d
		}
		return strings.Compare(a.name, b.name)
	})
	head, err := appendHeader([]byte("{"), list, metadata)
	if err != nil {
		return err
	}
	head = append(head, '}')
	for len(head)%8 != 0 {
		head = append(head, ' ')
	}
	if len(head) > maxHeader {
		return fmt.Errorf("weights: header of %d bytes, at most %d", len(head), maxHeader)
	}
	if _, err := w.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(head)))); err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	for _, o := range list {
		if err := o.write(w); err != nil {
			return err
		}
	}
	return nil
}

func appendHeader(head []byte, list []outgoing, metadata map[string]string) ([]byte, error) {
	if len(metadata) > 0 {
		head = append(head, `"__metadata__":{`...)
		for i, k := range slices.Sorted(maps.Keys(metadata)) {
			if i > 0 {
				head = append(head, ',')
			}
			head = append(append(append(head, quote(k)...), ':'), quote(metadata[k])...)
		}
		head = append(head, '}')
	}
	var at int64
	for _, o := range list {
		if o.name == "__metadata__" || !utf8.ValidString(o.name) {
			return nil, fmt.Errorf("weights: a tensor cannot be called %q", clip(o.name))
		}
		if len(head) > 1 {
			head = append(head, ',')
		}
		n := o.bytes()
		shape, _ := json.Marshal(append([]int{}, o.shape...)) // ints always marshal
		head = fmt.Appendf(head, `%s:{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]}`, quote(o.name), o.dtype, shape, at, at+n)
		at += n
	}
	return head, nil
}

// quote is s as JSON text.
func quote(s string) []byte {
	b, _ := json.Marshal(s) // strings always marshal
	return b
}

// WriteRaw writes t as bare little-endian float32, row by row.
func WriteRaw(w io.Writer, t tensor.Tensor) error {
	o, err := floats("", t, F32)
	if err != nil {
		return err
	}
	return o.write(w)
}

// WriteNPY writes t as a NumPy file, version 1.0, stored as F32, F16 or F64; the format has
// no BF16.
func WriteNPY(w io.Writer, t tensor.Tensor, dt DType) error {
	o, err := floats("", t, dt)
	if err != nil {
		return err
	}
	return writeNPY(w, o)
}

// WriteNPYRaw writes a tensor as a NumPy file in its own type.
func WriteNPYRaw(w io.Writer, r Raw) error { return writeNPY(w, stored("", r)) }

// npyTypes are NumPy's names.
var npyTypes = map[DType]string{
	F64: "<f8", F32: "<f4", F16: "<f2", I64: "<i8", I32: "<i4", I16: "<i2", I8: "|i1",
	U64: "<u8", U32: "<u4", U16: "<u2", U8: "|u1", Bool: "|b1",
}

func writeNPY(w io.Writer, o outgoing) error {
	descr, ok := npyTypes[o.dtype]
	if !ok {
		return fmt.Errorf("weights: npy has no type for %s", o.dtype)
	}
	var dims strings.Builder
	for i, d := range o.shape {
		if i > 0 {
			dims.WriteString(", ")
		}
		fmt.Fprint(&dims, d)
	}
	if len(o.shape) == 1 {
		dims.WriteString(",")
	}
	text := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", descr, dims.String())
	const fixed = 10 // magic, version, length
	pad := (64 - (fixed+len(text)+1)%64) % 64
	text += strings.Repeat(" ", pad) + "\n"
	head := append([]byte("\x93NUMPY\x01\x00"), byte(len(text)), byte(len(text)>>8))
	if _, err := w.Write(append(head, text...)); err != nil {
		return err
	}
	return o.write(w)
}
