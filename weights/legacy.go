package weights

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// torchMagic opens a file of torch.save before version 1.6: this whole number, pickled.
var torchMagic = []byte{0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19}

// addLegacy reads a file of torch.save before version 1.6: pickles one after the other
// (magic, version, machine, the object, the keys of its storages), then each storage as a
// count and its bytes. Any other bare pickle is refused.
func (c *Checkpoint) addLegacy(m *mapped, size int64) error {
	file, err := m.bytes(0, size)
	if err != nil {
		return err
	}
	magic, rest, err := unpickle(file)
	if err != nil {
		return err
	}
	if b, ok := magic.([]byte); !ok || string(b) != string(torchMagic) {
		return fmt.Errorf("a bare pickle of %s, not a file of torch.save", kindName(magic))
	}
	version, rest, err := unpickle(rest)
	if err != nil {
		return err
	}
	if version != any(int64(1001)) {
		return errors.New("unknown version of torch.save's old format")
	}
	machine, rest, err := unpickle(rest)
	if err != nil {
		return err
	}
	if d, ok := machine.(*pyDict); !ok || d.get("little_endian") != any(true) {
		return errors.New("byte order is not little")
	}
	root, rest, types, err := unpickleStorages(rest)
	if err != nil {
		return err
	}
	keys, rest, err := unpickle(rest)
	if err != nil {
		return err
	}
	places, err := legacyStorages(keys, types, rest, size)
	if err != nil {
		return err
	}
	return c.addPickled(root, func(t *pyTensor) (entry, error) {
		p, ok := places[t.storage.key]
		if !ok {
			return entry{}, fmt.Errorf("storage %q is not in the file", clip(t.storage.key))
		}
		return t.entry(m, p[0], p[1])
	})
}

// legacyStorages returns offset and size of every storage; data is the end of the file.
func legacyStorages(keys any, types map[string]DType, data []byte, size int64) (map[string][2]int64, error) {
	l, ok := keys.(*pyList)
	if !ok {
		return nil, errors.New("no list of storages")
	}
	places := map[string][2]int64{}
	for _, k := range l.items {
		key, _ := k.(string)
		dt, ok := types[key]
		if _, twice := places[key]; !ok || twice {
			return nil, fmt.Errorf("storage %q is unknown or repeated", clip(key))
		}
		if len(data) < 8 {
			return nil, fmt.Errorf("storage %q: the file ends", clip(key))
		}
		n, width := binary.LittleEndian.Uint64(data), uint64(dt.Size())
		data = data[8:]
		if n > uint64(len(data))/width {
			return nil, fmt.Errorf("storage %q: %d elements of %s, %d bytes left", clip(key), n, dt, len(data))
		}
		places[key] = [2]int64{size - int64(len(data)), int64(n * width)}
		data = data[n*width:]
	}
	if len(data) != 0 {
		return nil, fmt.Errorf("%d bytes after the last storage", len(data))
	}
	return places, nil
}
