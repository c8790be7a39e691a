package weights

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Limits of the unpickler. A checkpoint of twenty thousand tensors takes about a tenth of
// each.
const (
	maxPickle      = 64 << 20  // bytes of the stream
	maxPickleOps   = 16 << 20  // opcodes
	maxPickleBytes = 256 << 20 // memory of what the stream makes, estimated
	maxPickleDepth = 1 << 16   // marks open at a time
)

// The values a stream can make: nil, bool, int64, float64, string, []byte, and these.
type (
	pyTuple []any
	pyList  struct{ items []any }
	pyDict  struct{ keys, values []any }
	// pyGlobal is a name from the allow-list; it is never looked up anywhere.
	pyGlobal string
	// pyStorage is what a persistent id stands for.
	pyStorage struct {
		dtype DType
		key   string
		numel int64
	}
	pyTensor struct {
		storage pyStorage
		offset  int64
		shape   []int64
		strides []int64
	}
)

// allowed are the names a stream may mention. The value says what calling it does.
var allowed = map[string]func(args pyTuple) (any, error){
	"collections.OrderedDict":         callOrderedDict,
	"torch._utils._rebuild_tensor_v2": callTensor,
	"torch._utils._rebuild_tensor":    callTensor,
	"torch._utils._rebuild_parameter": callParameter,
	"torch.Size":                      callSize,
	"torch.DoubleStorage":             nil,
	"torch.FloatStorage":              nil,
	"torch.HalfStorage":               nil,
	"torch.BFloat16Storage":           nil,
	"torch.LongStorage":               nil,
	"torch.IntStorage":                nil,
	"torch.ShortStorage":              nil,
	"torch.CharStorage":               nil,
	"torch.ByteStorage":               nil,
	"torch.BoolStorage":               nil,
}

// storageTypes are the element types of storage classes.
var storageTypes = func() map[pyGlobal]DType {
	m := map[pyGlobal]DType{}
	for dt, class := range torchStorages {
		m[pyGlobal("torch."+class)] = dt
	}
	return m
}()

func init() {
	for name := range storageTypes {
		if _, ok := allowed[string(name)]; !ok {
			panic("weights: storage class not allowed: " + string(name))
		}
	}
}

// unpickler reads a pickle stream of protocols 2 to 5. It builds plain data and tensor
// descriptions; a name that is not on the allow-list ends it, and nothing is ever run.
type unpickler struct {
	in    []byte
	at    int
	stack []any
	marks []int
	memo  map[uint32]any
	ops   int
	spent int

	storages map[string]DType
}

// unpickle reads one stream from the front of in and returns its value and what follows it.
func unpickle(in []byte) (value any, rest []byte, err error) {
	value, rest, _, err = unpickleStorages(in)
	return value, rest, err
}

// unpickleStorages is unpickle, and returns the type of every storage mentioned by its key.
func unpickleStorages(in []byte) (value any, rest []byte, storages map[string]DType, err error) {
	u := &unpickler{in: in[:min(len(in), maxPickle)], memo: map[uint32]any{}, storages: map[string]DType{}}
	value, err = u.run()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("pickle: byte %d: %w", u.at, err)
	}
	return value, in[u.at:], u.storages, nil
}

func (u *unpickler) run() (any, error) {
	if len(u.in) == 0 {
		return nil, errors.New("empty stream")
	}
	for {
		op, err := u.take(1)
		if err != nil {
			return nil, err
		}
		if u.ops++; u.ops > maxPickleOps {
			return nil, fmt.Errorf("more than %d opcodes", maxPickleOps)
		}
		if op[0] == '.' {
			break
		}
		if err := u.step(op[0]); err != nil {
			return nil, err
		}
		if u.spent > maxPickleBytes {
			return nil, fmt.Errorf("makes more than %d bytes of data", maxPickleBytes)
		}
	}
	if len(u.stack) != 1 || len(u.marks) != 0 {
		return nil, fmt.Errorf("stops with %d values and %d marks, want one value", len(u.stack), len(u.marks))
	}
	return u.stack[0], nil
}

// take returns the next n bytes.
func (u *unpickler) take(n uint64) ([]byte, error) {
	if n > uint64(len(u.in)-u.at) {
		return nil, fmt.Errorf("%d bytes wanted, %d left", n, len(u.in)-u.at)
	}
	b := u.in[u.at : u.at+int(n)]
	u.at += int(n)
	return b, nil
}

// line returns the bytes up to the next newline.
func (u *unpickler) line() (string, error) {
	n := bytes.IndexByte(u.in[u.at:], '\n')
	if n < 0 || n > 1024 {
		return "", errors.New("name without an end")
	}
	s := string(u.in[u.at : u.at+n])
	u.at += n + 1
	return s, nil
}

// number reads an unsigned number of n bytes.
func (u *unpickler) number(n int) (uint64, error) {
	b, err := u.take(uint64(n))
	if err != nil {
		return 0, err
	}
	var wide [8]byte
	copy(wide[:], b)
	return binary.LittleEndian.Uint64(wide[:]), nil
}

// sized reads n bytes that a length of width bytes announces.
func (u *unpickler) sized(width int) ([]byte, error) {
	n, err := u.number(width)
	if err != nil {
		return nil, err
	}
	b, err := u.take(n)
	u.spent += len(b)
	return b, err
}

func (u *unpickler) push(v any) {
	u.spent += 32
	u.stack = append(u.stack, v)
}

// floor is the height below which the stack may not be popped: the last mark.
func (u *unpickler) floor() int {
	if n := len(u.marks); n > 0 {
		return u.marks[n-1]
	}
	return 0
}

func (u *unpickler) pop() (any, error) {
	if len(u.stack) <= u.floor() {
		return nil, errors.New("stack underflow")
	}
	v := u.stack[len(u.stack)-1]
	u.stack = u.stack[:len(u.stack)-1]
	return v, nil
}

// popMark returns a copy of everything above the last mark.
func (u *unpickler) popMark() ([]any, error) {
	if len(u.marks) == 0 {
		return nil, errors.New("no mark")
	}
	from := u.floor()
	u.marks = u.marks[:len(u.marks)-1]
	items := append([]any(nil), u.stack[from:]...)
	u.spent += 16 * len(items)
	clear(u.stack[from:])
	u.stack = u.stack[:from]
	return items, nil
}

func (u *unpickler) top() (any, error) {
	if len(u.stack) <= u.floor() {
		return nil, errors.New("stack underflow")
	}
	return u.stack[len(u.stack)-1], nil
}

// text pushes a string; it must be UTF-8.
func (u *unpickler) text(width int) error {
	b, err := u.sized(width)
	if err != nil {
		return err
	}
	if !utf8.Valid(b) {
		return errors.New("string is not UTF-8")
	}
	u.push(string(b))
	return nil
}

func (u *unpickler) data(width int) error {
	b, err := u.sized(width)
	if err != nil {
		return err
	}
	u.push(append([]byte(nil), b...))
	return nil
}

// unsigned pushes a number of width bytes.
func (u *unpickler) unsigned(width int) error {
	n, err := u.number(width)
	if err != nil {
		return err
	}
	u.push(int64(n))
	return nil
}

// long pushes a signed number of up to eight bytes; longer ones are kept as bytes, for
// PyTorch's magic number, and fit nowhere else.
func (u *unpickler) long(width int) error {
	n, err := u.number(width)
	if err != nil {
		return err
	}
	const most = 64
	if n > most {
		return fmt.Errorf("whole number of %d bytes, at most %d", n, most)
	}
	b, err := u.take(n)
	if err != nil {
		return err
	}
	if n > 8 {
		u.push(append([]byte(nil), b...))
		return nil
	}
	var v uint64
	for i, x := range b {
		v |= uint64(x) << (8 * i)
	}
	if n > 0 && n < 8 && b[n-1]&0x80 != 0 {
		v |= ^uint64(0) << (8 * n)
	}
	u.push(int64(v))
	return nil
}

// kindName says what a value is, for messages.
func kindName(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool, int64, float64, string, []byte:
		return fmt.Sprintf("a %T", v)
	case pyTuple:
		return "a tuple"
	case *pyList:
		return "a list"
	case *pyDict:
		return "a dictionary"
	case pyGlobal:
		return string(v)
	case pyStorage:
		return "a storage"
	case *pyTensor:
		return "a tensor"
	}
	return fmt.Sprintf("%T", v)
}
