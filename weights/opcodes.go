package weights

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// step performs one opcode.
func (u *unpickler) step(op byte) error {
	switch op {
	case 0x80: // PROTO
		v, err := u.number(1)
		if err == nil && (v < 2 || v > 5) {
			err = fmt.Errorf("protocol %d, want 2 to 5", v)
		}
		return err
	case 0x95: // FRAME
		n, err := u.number(8)
		if err == nil && n > uint64(len(u.in)-u.at) {
			err = fmt.Errorf("frame of %d bytes, %d left", n, len(u.in)-u.at)
		}
		return err
	case 'N':
		u.push(nil)
	case 0x88:
		u.push(true)
	case 0x89:
		u.push(false)
	case 'K':
		return u.unsigned(1)
	case 'M':
		return u.unsigned(2)
	case 'J':
		n, err := u.number(4)
		u.push(int64(int32(n)))
		return err
	case 0x8a:
		return u.long(1)
	case 0x8b:
		return u.long(4)
	case 'G':
		b, err := u.take(8)
		if err == nil {
			u.push(math.Float64frombits(binary.BigEndian.Uint64(b)))
		}
		return err
	case 0x8c:
		return u.text(1)
	case 'X':
		return u.text(4)
	case 0x8d:
		return u.text(8)
	case 'C':
		return u.data(1)
	case 'B':
		return u.data(4)
	case 0x8e:
		return u.data(8)
	case 'c', 0x93, 'R', 'b', 'Q':
		return u.call(op)
	case 'q', 'r', 'h', 'j', 0x94:
		return u.remember(op)
	default:
		return u.build(op)
	}
	return nil
}

// remember performs the opcodes of the memo.
func (u *unpickler) remember(op byte) error {
	width := 1
	if op == 'r' || op == 'j' {
		width = 4
	}
	var n uint64
	var err error
	if op == 0x94 { // MEMOIZE
		n = uint64(len(u.memo))
	} else if n, err = u.number(width); err != nil {
		return err
	}
	if op == 'h' || op == 'j' {
		v, ok := u.memo[uint32(n)]
		if !ok {
			return fmt.Errorf("memo has no entry %d", n)
		}
		u.push(v)
		return nil
	}
	v, err := u.top()
	if err != nil {
		return err
	}
	u.spent += 48
	u.memo[uint32(n)] = v
	return nil
}

// build performs the opcodes that make tuples, lists and dictionaries.
func (u *unpickler) build(op byte) error {
	switch op {
	case '(':
		if len(u.marks) == maxPickleDepth {
			return fmt.Errorf("more than %d open marks", maxPickleDepth)
		}
		u.marks = append(u.marks, len(u.stack))
	case ')':
		u.push(pyTuple(nil))
	case ']':
		u.push(&pyList{})
	case '}':
		u.push(&pyDict{})
	case 't':
		items, err := u.popMark()
		if err != nil {
			return err
		}
		u.push(pyTuple(items))
	case 0x85, 0x86, 0x87:
		n := int(op - 0x84)
		if len(u.stack)-u.floor() < n {
			return errors.New("stack underflow")
		}
		from := len(u.stack) - n
		items := append(pyTuple(nil), u.stack[from:]...)
		u.stack = u.stack[:from]
		u.push(items)
	case '0': // POP
		if len(u.marks) > 0 && u.floor() == len(u.stack) {
			u.marks = u.marks[:len(u.marks)-1]
			return nil
		}
		_, err := u.pop()
		return err
	case '1': // POP_MARK
		_, err := u.popMark()
		return err
	case '2': // DUP
		v, err := u.top()
		if err != nil {
			return err
		}
		u.push(v)
	case 'a':
		v, err := u.pop()
		if err != nil {
			return err
		}
		return u.extend([]any{v})
	case 'e':
		items, err := u.popMark()
		if err != nil {
			return err
		}
		return u.extend(items)
	case 's':
		v, err := u.pop()
		if err != nil {
			return err
		}
		k, err := u.pop()
		if err != nil {
			return err
		}
		return u.set([]any{k, v})
	case 'u':
		items, err := u.popMark()
		if err != nil {
			return err
		}
		return u.set(items)
	default:
		return fmt.Errorf("opcode %#02x is not allowed", op)
	}
	return nil
}

func (u *unpickler) extend(items []any) error {
	v, err := u.top()
	if err != nil {
		return err
	}
	l, ok := v.(*pyList)
	if !ok {
		return fmt.Errorf("append to %s", kindName(v))
	}
	u.spent += 16 * len(items)
	l.items = append(l.items, items...)
	return nil
}

func (u *unpickler) set(items []any) error {
	v, err := u.top()
	if err != nil {
		return err
	}
	d, ok := v.(*pyDict)
	if !ok {
		return fmt.Errorf("set an item of %s", kindName(v))
	}
	if len(items)%2 != 0 {
		return errors.New("a key without a value")
	}
	u.spent += 16 * len(items)
	for i := 0; i < len(items); i += 2 {
		d.keys = append(d.keys, items[i])
		d.values = append(d.values, items[i+1])
	}
	return nil
}

// call performs the opcodes that name and use globals.
func (u *unpickler) call(op byte) error {
	switch op {
	case 'c':
		module, err := u.line()
		if err != nil {
			return err
		}
		name, err := u.line()
		if err != nil {
			return err
		}
		return u.global(module, name)
	case 0x93: // STACK_GLOBAL
		name, err := u.pop()
		if err != nil {
			return err
		}
		module, err := u.pop()
		if err != nil {
			return err
		}
		m, ok := module.(string)
		n, ok2 := name.(string)
		if !ok || !ok2 {
			return errors.New("global without a name")
		}
		return u.global(m, n)
	case 'R':
		args, err := u.pop()
		if err != nil {
			return err
		}
		f, err := u.pop()
		if err != nil {
			return err
		}
		v, err := reduce(f, args)
		if err != nil {
			return err
		}
		u.spent += 128
		u.push(v)
	case 'b': // BUILD: the state of an OrderedDict ("_metadata") is of no use here
		if _, err := u.pop(); err != nil {
			return err
		}
		v, err := u.top()
		if err != nil {
			return err
		}
		if _, ok := v.(*pyDict); !ok {
			return fmt.Errorf("state for %s", kindName(v))
		}
	case 'Q':
		id, err := u.pop()
		if err != nil {
			return err
		}
		s, err := storageOf(id)
		if err != nil {
			return err
		}
		if dt, ok := u.storages[s.key]; ok && dt != s.dtype {
			return fmt.Errorf("storage %q is both %s and %s", clip(s.key), dt, s.dtype)
		}
		u.storages[s.key] = s.dtype
		u.spent += 256
		u.push(s)
	}
	return nil
}

func (u *unpickler) global(module, name string) error {
	full := module + "." + name
	if _, ok := allowed[full]; !ok {
		return fmt.Errorf("%q is not allowed in a checkpoint", clip(full))
	}
	u.push(pyGlobal(full))
	return nil
}
