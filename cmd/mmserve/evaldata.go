package main

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// sample is one labelled item of a data set.
type sample struct {
	name  string
	data  []byte
	text  bool // data is text
	label string
	// caption and tags name the thing in words, where the set has them.
	caption string
	tags    []string
}

// wanted reports whether an item of a split is asked for. No split named: every item that is
// not marked train or val.
func wanted(split, asked string) bool {
	if asked != "" {
		return split == asked
	}
	return split != "train" && split != "val"
}

// maxEvalFile bounds one file that is read whole.
const maxEvalFile = 1 << 30

// readZip reads the files of an archive that pick wants.
func readZip(file string, pick func(name string) bool, each func(name string, data []byte) error) error {
	z, err := zip.OpenReader(file)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	defer z.Close()
	for _, f := range z.File {
		if f.FileInfo().IsDir() || !pick(f.Name) {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return fmt.Errorf("%s: %s: %w", file, f.Name, err)
		}
		b, err := io.ReadAll(io.LimitReader(r, maxEvalFile))
		r.Close()
		if err == nil {
			err = each(f.Name, b)
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", file, f.Name, err)
		}
	}
	return nil
}

// readCIFAR reads cifar10/<split>.tar.gz: <split>/<class>/<name>.jpg.
func readCIFAR(dir, split string) ([]sample, error) {
	if split == "" {
		split = "test"
	}
	f, err := os.Open(filepath.Join(dir, split+".tar.gz"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	g, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	var out []sample
	for t := tar.NewReader(g); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(t, maxEvalFile))
		if err != nil {
			return nil, err
		}
		out = append(out, sample{name: h.Name, data: b, label: path.Base(path.Dir(h.Name))})
	}
}

// readDigits reads fsdd/recordings.zip: <digit>_<speaker>_<index>.wav, indexes below 5 are test.
func readDigits(dir, split string) (out []sample, err error) {
	err = readZip(filepath.Join(dir, "recordings.zip"), func(name string) bool {
		parts := strings.Split(strings.TrimSuffix(path.Base(name), ".wav"), "_")
		if len(parts) != 3 {
			return false
		}
		i, err := strconv.Atoi(parts[2])
		s := "train"
		if i < 5 {
			s = "test"
		}
		return err == nil && wanted(s, split)
	}, func(name string, b []byte) error {
		digit, _, _ := strings.Cut(path.Base(name), "_")
		out = append(out, sample{name: name, data: b, label: digit})
		return nil
	})
	return out, err
}

// readESC reads esc10/clips.zip: <class>/<fold>-….mp3, fold 5 is test.
func readESC(dir, split string) (out []sample, err error) {
	err = readZip(filepath.Join(dir, "clips.zip"), func(name string) bool {
		s := "train"
		if strings.HasPrefix(path.Base(name), "5") {
			s = "test"
		}
		return strings.Contains(name, "/") && wanted(s, split)
	}, func(name string, b []byte) error {
		out = append(out, sample{name: name, data: b, label: path.Base(path.Dir(name))})
		return nil
	})
	return out, err
}

// emojiRow is a line of emoji/captions.jsonl.
type emojiRow struct {
	Hex      string   `json:"hex"`
	Label    string   `json:"label"`
	Tags     []string `json:"tags"`
	Category string   `json:"category"`
	Images   map[string]struct {
		File  string `json:"file"`
		Split string `json:"split"`
	} `json:"images"`
}

// readEmoji reads the pictures of emoji/ whose split keep wants. Label is the concept.
func readEmoji(dir string, keep func(split string) bool) ([]sample, error) {
	b, err := os.ReadFile(filepath.Join(dir, "captions.jsonl"))
	if err != nil {
		return nil, err
	}
	rows := map[string]emojiRow{}
	for line := range bytes.Lines(b) {
		var r emojiRow
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("captions.jsonl: %w", err)
		}
		for _, img := range r.Images {
			if keep(img.Split) {
				rows[img.File] = r
			}
		}
	}
	var out []sample
	err = readZip(filepath.Join(dir, "images.zip"), func(name string) bool {
		_, ok := rows[name]
		return ok
	}, func(name string, b []byte) error {
		r := rows[name]
		out = append(out, sample{name: name, data: b, label: r.Hex, caption: r.Label, tags: r.Tags})
		return nil
	})
	return out, err
}

// readShapes reads shapes3d/ as binary PLY files: 1,024 points with normals and colours.
func readShapes(dir, split string) ([]sample, error) {
	const points = 1024
	load := func(name string, width int) ([]byte, error) {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		g, err := gzip.NewReader(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		b, err := io.ReadAll(io.LimitReader(g, maxEvalFile))
		if err == nil && len(b)%(points*3*width) != 0 {
			err = fmt.Errorf("%s: %d bytes are no whole number of clouds", name, len(b))
		}
		return b, err
	}
	xyz, err := load("xyz.i16le.gz", 2)
	if err != nil {
		return nil, err
	}
	normals, err := load("normals.i8.gz", 1)
	if err != nil {
		return nil, err
	}
	rgb, err := load("rgb.u8.gz", 1)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(dir, "index.jsonl"))
	if err != nil {
		return nil, err
	}
	var out []sample
	for line := range bytes.Lines(text) {
		var r struct {
			I       int    `json:"i"`
			Class   string `json:"cls"`
			Caption string `json:"caption"`
			Split   string `json:"split"`
		}
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("index.jsonl: %w", err)
		}
		at := r.I * points * 3
		if r.I < 0 || at+points*3 > len(normals) || at+points*3 > len(rgb) || 2*(at+points*3) > len(xyz) {
			return nil, fmt.Errorf("index.jsonl: cloud %d is beyond the arrays", r.I)
		}
		if wanted(r.Split, split) {
			ply := cloudPLY(xyz[2*at:2*(at+points*3)], normals[at:at+points*3], rgb[at:at+points*3])
			out = append(out, sample{name: strconv.Itoa(r.I), data: ply, label: r.Class, caption: r.Caption})
		}
	}
	return out, nil
}

// cloudPLY writes int16 coordinates (over 32767), int8 normals (over 127) and colours as PLY.
func cloudPLY(xyz, normals, rgb []byte) []byte {
	n := len(rgb) / 3
	var b bytes.Buffer
	fmt.Fprintf(&b, "ply\nformat binary_little_endian 1.0\nelement vertex %d\n", n)
	for _, p := range []string{"x", "y", "z", "nx", "ny", "nz"} {
		fmt.Fprintf(&b, "property float %s\n", p)
	}
	b.WriteString("property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n")
	le := binary.LittleEndian
	for i := range n {
		for k := range 3 {
			v := float32(float64(int16(le.Uint16(xyz[2*(3*i+k):]))) / 32767)
			b.Write(le.AppendUint32(nil, math.Float32bits(v)))
		}
		for k := range 3 {
			b.Write(le.AppendUint32(nil, math.Float32bits(float32(float64(int8(normals[3*i+k]))/127))))
		}
		b.Write(rgb[3*i : 3*i+3])
	}
	return b.Bytes()
}

// readTSV reads text/<file> with columns split, …, label, text; label and text are the last
// two. Lines whose label is skip are left out.
func readTSV(file, split, skip string) ([]sample, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []sample
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		cols := strings.Split(lines.Text(), "\t")
		if len(cols) < 3 {
			return nil, fmt.Errorf("%s: a line of %d columns", file, len(cols))
		}
		label := cols[len(cols)-2]
		if label == skip || !wanted(cols[0], split) {
			continue
		}
		out = append(out, sample{name: strconv.Itoa(len(out)), data: []byte(cols[len(cols)-1]), text: true, label: label})
	}
	return out, lines.Err()
}

// present lists which of the known sets a data directory holds.
func present(dir string) []string {
	var out []string
	for _, name := range []string{"cifar10", "emoji", "esc10", "fsdd", "shapes3d", "text"} {
		if st, err := os.Stat(filepath.Join(dir, name)); err == nil && st.IsDir() {
			out = append(out, name)
		}
	}
	return out
}

// missing reports whether an error is only the absence of a file.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// matchesWord reports whether a thing named caption, or tagged so, is word.
func (s sample) matchesWord(word string) bool {
	return s.caption == word || slices.Contains(s.tags, word)
}
