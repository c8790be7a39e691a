package pointfile

import (
	"bytes"
	"path"
	"strings"
)

// formats has every format that is read, by name. An open function reads the header into r
// and sets r.body.
var formats = map[string]func(r *Reader, in *input, o *Options) error{
	"json": openJSON,
	"las":  openLAS,
	"npy":  openNPY,
	"obj":  openOBJ,
	"off":  openOFF,
	"pcd":  openPCD,
	"ply":  openPLY,
	"xyz":  openXYZ,
}

// extensions maps file name endings to formats, those we only refuse by name included.
var extensions = map[string]string{
	".asc": "xyz", ".csv": "xyz", ".pts": "xyz", ".tsv": "xyz", ".txt": "xyz", ".xyz": "xyz",
	".glb": "glb", ".las": "las", ".laz": "las", ".npy": "npy", ".npz": "npz", ".obj": "obj",
	".off": "off", ".pcd": "pcd", ".ply": "ply",
}

// FormatOf returns the format that the file name's ending stands for, or "".
func FormatOf(name string) string { return extensions[strings.ToLower(path.Ext(name))] }

// Sniff returns the format whose magic the first bytes of a file carry, "xyz" for text whose
// first lines look like numbers, "json" for arrays in an array, or "". OBJ has no magic.
func Sniff(prefix []byte) string {
	switch {
	case bytes.HasPrefix(prefix, []byte("ply")) && (len(prefix) == 3 || isSpace(prefix[3])):
		return "ply"
	case bytes.HasPrefix(prefix, []byte("LASF")):
		return "las"
	case bytes.HasPrefix(prefix, []byte("\x93NUMPY")):
		return "npy"
	case bytes.HasPrefix(prefix, []byte("glTF")):
		return "glb"
	case looksLikePCD(prefix):
		return "pcd"
	case looksLikeOFF(prefix):
		return "off"
	case looksLikeJSON(prefix):
		return "json"
	case looksLikeNumbers(prefix):
		return "xyz"
	}
	return ""
}

// pick decides the format of an input: magic bytes first, then what the caller knows.
func pick(prefix []byte, hint string) string {
	found := Sniff(prefix)
	if found == "" || (found == "xyz" || found == "json") && hint != "" {
		return hint
	}
	return found
}

func looksLikePCD(b []byte) bool {
	line := b
	for range 64 {
		first, rest, more := bytes.Cut(line, []byte("\n"))
		first = bytes.TrimSpace(first)
		switch {
		case bytes.HasPrefix(first, []byte("# .PCD")):
			return true
		case bytes.HasPrefix(first, []byte("VERSION")), bytes.HasPrefix(first, []byte("FIELDS")):
			return true
		case len(first) != 0 && first[0] != '#', !more:
			return false
		}
		line = rest
	}
	return false
}

// looksLikeNumbers wants the first line that is neither blank nor a comment to hold at least
// three numbers; or the names of columns, or one number of points, and the second such line
// the numbers.
func looksLikeNumbers(b []byte) bool {
	if bytes.IndexByte(b, 0) >= 0 {
		return false
	}
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	var tok [][]byte
	named := false
	for len(b) > 0 {
		line, rest, _ := bytes.Cut(b, []byte("\n"))
		b = rest
		if tok = splitTable(tok[:0], line); len(tok) == 0 {
			continue
		}
		if allNumbers(tok) && len(tok) >= 3 {
			return true
		}
		if named || columnsOf(tok) == nil && !(allNumbers(tok) && len(tok) == 1) {
			return false
		}
		named = true
	}
	return false
}

func allNumbers(tok [][]byte) bool {
	for _, t := range tok {
		if _, ok := parseNumber(t); !ok {
			return false
		}
	}
	return true
}
