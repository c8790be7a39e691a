package weights

import (
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// No stream may name anything but containers of tensors, by whichever opcode it names it; what runs
// code or reads files elsewhere is refused by its name.
func TestNothingElseIsAllowed(t *testing.T) {
	names := []string{
		"os.system", "posix.system", "nt.system", "os.popen", "subprocess.Popen", "subprocess.check_output", "builtins.eval", "builtins.exec",
		"builtins.getattr", "builtins.__import__", "builtins.open", "__builtin__.eval", "importlib.import_module", "runpy.run_path", "pty.spawn",
		"socket.socket", "shutil.rmtree", "webbrowser.open", "operator.attrgetter", "functools.partial", "torch.load", "torch.hub.load",
		"torch.jit.load", "torch.storage._load_from_bytes", "numpy.load", "_pickle.loads", "pickle.loads", "marshal.loads", "types.FunctionType",
		"_codecs.encode", "copyreg._reconstructor", "collections.OrderedDict.fromkeys", "torch._utils", "torch.FloatStorage.__class__", "",
	}
	for _, full := range names {
		at := max(strings.LastIndexByte(full, '.'), 0)
		module, name := full[:at], strings.TrimPrefix(full[at:], ".")
		short := func(s string) string { return "\x8c" + string(rune(len(s))) + s }
		for opcode, stream := range map[string]string{
			"GLOBAL":       "\x80\x02c" + module + "\n" + name + "\n)R.",
			"STACK_GLOBAL": "\x80\x04" + short(module) + short(name) + "\x93)R.",
			"INST":         "(i" + module + "\n" + name + "\n.",
		} {
			if _, _, err := unpickle([]byte(stream)); err == nil {
				t.Errorf("%s %q is taken", opcode, full)
			} else if opcode != "INST" && !strings.Contains(err.Error(), "not allowed") {
				t.Errorf("%s %q is not refused by name: %v", opcode, full, err)
			}
		}
	}
	var strange []string
	for name := range maps.Keys(allowed) {
		storage := strings.HasPrefix(name, "torch.") && strings.HasSuffix(name, "Storage")
		if !storage && !slices.Contains([]string{"collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor", "torch._utils._rebuild_parameter", "torch.Size"}, name) {
			strange = append(strange, name)
		}
	}
	if strange != nil {
		t.Errorf("allowed besides containers of tensors: %q", strange)
	}
}

// Tensors that share bytes, or leave some to nobody, are no safetensors file.
func TestLayout(t *testing.T) {
	for _, c := range []struct{ name, header, says string }{
		{"side by side", `{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}`, ""},
		{"in another order", `{"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, ""},
		{"the same bytes twice", `{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}`, "overlaps"},
		{"half shared", `{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}`, "overlaps"},
		{"one inside another", `{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, "overlaps"},
		{"a hole", `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}`, "unused"},
		{"a hole at the end", `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, "after the last"},
		{"a key twice", `{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}`, "twice"},
		{"a size that overflows", `{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]}}`, `tensor "a"`},
	} {
		file := append(binary.LittleEndian.AppendUint64(nil, uint64(len(c.header))), c.header...)
		_, err := Parse("x.safetensors", append(file, make([]byte, 16)...))
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A header of more than a hundred megabytes is refused for its length, before it is looked at.
func TestHeaderLength(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := os.WriteFile(path, binary.LittleEndian.AppendUint64(nil, maxHeader+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 8+maxHeader+1); err != nil { // a hole in the file, of no size on the disk
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "at most 100000000") {
		t.Error(err)
	}
}
