package weights

import (
	"errors"
	"fmt"
	"math/bits"
)

// reduce performs the call of an allowed name.
func reduce(f, args any) (any, error) {
	name, ok := f.(pyGlobal)
	if !ok {
		return nil, fmt.Errorf("call of %s", kindName(f))
	}
	do := allowed[string(name)]
	list, ok := args.(pyTuple)
	if do == nil || !ok {
		return nil, fmt.Errorf("call of %q", string(name))
	}
	v, err := do(list)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", string(name), err)
	}
	return v, nil
}

// callOrderedDict makes a dictionary, empty or from a list of pairs.
func callOrderedDict(args pyTuple) (any, error) {
	d := &pyDict{}
	if len(args) == 0 {
		return d, nil
	}
	l, ok := args[0].(*pyList)
	if !ok || len(args) > 1 {
		return nil, errors.New("arguments are not a list of pairs")
	}
	for _, item := range l.items {
		k, v, ok := pair(item)
		if !ok {
			return nil, errors.New("arguments are not a list of pairs")
		}
		d.keys, d.values = append(d.keys, k), append(d.values, v)
	}
	return d, nil
}

// pair splits a tuple or list of two.
func pair(v any) (a, b any, ok bool) {
	items, _ := v.(pyTuple)
	if l, isList := v.(*pyList); isList {
		items = l.items
	}
	if len(items) != 2 {
		return nil, nil, false
	}
	return items[0], items[1], true
}

// callSize makes a shape, which is a tuple.
func callSize(args pyTuple) (any, error) {
	if len(args) != 1 {
		return nil, errors.New("want one argument")
	}
	if l, ok := args[0].(*pyList); ok {
		return pyTuple(l.items), nil
	}
	t, ok := args[0].(pyTuple)
	if !ok {
		return nil, errors.New("argument is not a tuple")
	}
	return t, nil
}

// callParameter unwraps a Parameter.
func callParameter(args pyTuple) (any, error) {
	if len(args) < 1 {
		return nil, errors.New("no tensor")
	}
	t, ok := args[0].(*pyTensor)
	if !ok {
		return nil, fmt.Errorf("of %s", kindName(args[0]))
	}
	return t, nil
}

// storageOf reads a persistent id: ('storage', class, key, place, elements).
func storageOf(id any) (pyStorage, error) {
	t, ok := id.(pyTuple)
	if !ok || len(t) < 5 || len(t) > 6 || t[0] != any("storage") {
		return pyStorage{}, errors.New("persistent id is not a storage")
	}
	class, ok := t[1].(pyGlobal)
	dt, known := storageTypes[class]
	if !ok || !known {
		return pyStorage{}, fmt.Errorf("storage of %s", kindName(t[1]))
	}
	key, ok := t[2].(string)
	if !ok || key == "" || len(key) > 64 {
		return pyStorage{}, errors.New("storage without a key")
	}
	n, ok := t[4].(int64)
	if !ok || n < 0 {
		return pyStorage{}, fmt.Errorf("storage %q: %s elements", clip(key), kindName(t[4]))
	}
	if len(t) == 6 && t[5] != nil {
		return pyStorage{}, fmt.Errorf("storage %q is a view of another", clip(key))
	}
	return pyStorage{dtype: dt, key: key, numel: n}, nil
}

// callTensor describes a tensor: storage, offset, shape, strides; the rest is of no use here.
func callTensor(args pyTuple) (any, error) {
	if len(args) < 4 {
		return nil, fmt.Errorf("%d arguments, want 4 or more", len(args))
	}
	s, ok := args[0].(pyStorage)
	if !ok {
		return nil, fmt.Errorf("of %s", kindName(args[0]))
	}
	t := &pyTensor{storage: s}
	if t.offset, ok = args[1].(int64); !ok || t.offset < 0 {
		return nil, errors.New("offset is not a size")
	}
	var err error
	if t.shape, err = sizesOf(args[2]); err != nil {
		return nil, fmt.Errorf("shape: %w", err)
	}
	if t.strides, err = sizesOf(args[3]); err != nil {
		return nil, fmt.Errorf("strides: %w", err)
	}
	if len(t.shape) != len(t.strides) {
		return nil, fmt.Errorf("%d axes but %d strides", len(t.shape), len(t.strides))
	}
	return t, nil
}

// sizesOf reads a tuple of whole numbers, none negative.
func sizesOf(v any) ([]int64, error) {
	t, ok := v.(pyTuple)
	if !ok {
		return nil, fmt.Errorf("%s where a tuple belongs", kindName(v))
	}
	if len(t) > maxAxes {
		return nil, fmt.Errorf("%d axes, at most %d", len(t), maxAxes)
	}
	out := make([]int64, len(t))
	for i, x := range t {
		n, ok := x.(int64)
		if !ok || n < 0 || int64(int(n)) != n {
			return nil, errors.New("not a tuple of sizes")
		}
		out[i] = n
	}
	return out, nil
}

// maxExpanded bounds a tensor that repeats its storage's elements, in elements.
const maxExpanded = 1 << 24

// layout checks a tensor against its storage. It returns the elements of the tensor, the
// span of the storage it reads (from its offset), and whether it is row-major there.
func (t *pyTensor) layout() (numel, span int64, contiguous bool, err error) {
	shape := make([]int, len(t.shape))
	for i, n := range t.shape {
		shape[i] = int(n)
	}
	if numel, _, err = byteSize(t.storage.dtype, shape); err != nil {
		return 0, 0, false, err
	}
	if numel == 0 {
		if t.offset > t.storage.numel {
			return 0, 0, false, fmt.Errorf("offset %d beyond a storage of %d elements", t.offset, t.storage.numel)
		}
		return 0, 0, true, nil
	}
	last, step := uint64(t.offset), int64(1)
	contiguous = true
	for i := len(shape) - 1; i >= 0; i-- {
		if t.shape[i] == 1 {
			continue
		}
		contiguous = contiguous && t.strides[i] == step
		step *= t.shape[i]
		hi, lo := bits.Mul64(uint64(t.shape[i]-1), uint64(t.strides[i]))
		sum, carry := bits.Add64(last, lo, 0)
		if hi != 0 || carry != 0 {
			return 0, 0, false, errors.New("strides overflow")
		}
		last = sum
	}
	if last >= uint64(t.storage.numel) {
		return 0, 0, false, fmt.Errorf("reads element %d of a storage of %d", last, t.storage.numel)
	}
	if numel > t.storage.numel && numel > maxExpanded {
		return 0, 0, false, fmt.Errorf("%d elements made of %d, at most %d", numel, t.storage.numel, maxExpanded)
	}
	return numel, int64(last) + 1 - t.offset, contiguous, nil
}
