package main

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
)

// evalSets are the folders of a data directory that eval knows (docs/eval.md).
var evalSets = []string{"cifar10", "emoji", "esc10", "fsdd", "shapes3d", "text"}

// sample is one labelled item of a data set: a file's bytes, a text or a point cloud.
type sample struct {
	name  string
	data  []byte
	text  bool   // data is text
	cloud *cloud // stands for data
	label string
	// caption and tags name the thing in words, where the set has them.
	caption string
	tags    []string
}

// item makes a pipeline item of a sample.
func (s sample) item() pipeline.Item {
	switch {
	case s.text:
		return pipeline.Item{Parts: []pipeline.Part{pipeline.TextPart(string(s.data))}}
	case s.cloud != nil:
		return pipeline.Item{Parts: []pipeline.Part{{Input: media.Bytes(s.name+".ply", s.cloud.ply())}}}
	}
	return pipeline.Item{Parts: []pipeline.Part{{Input: media.Bytes(s.name, s.data)}}}
}

// named reports whether a thing is called word, by its caption or a tag.
func (s sample) named(word string) bool {
	return s.caption == word || slices.Contains(s.tags, word)
}

// wanted reports whether an item of a split is asked for. No split named: every item that is
// not marked train or val.
func wanted(split, asked string) bool {
	if asked != "" {
		return split == asked
	}
	return split != "train" && split != "val"
}

// missing reports whether an error is only the absence of a file.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// maxEvalFile bounds one file or member that is read whole.
const maxEvalFile = 1 << 30

func readAtMost(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxEvalFile+1))
	if err == nil && len(b) > maxEvalFile {
		err = fmt.Errorf("larger than %d bytes", maxEvalFile)
	}
	return b, err
}

// byName puts items in one order, whatever order an archive has them in.
func byName(items []sample) []sample {
	slices.SortStableFunc(items, func(a, b sample) int { return strings.Compare(a.name, b.name) })
	return items
}

// readZip reads the members of an archive that pick wants.
func readZip(file string, pick func(name string) (bool, error), each func(name string, data []byte)) error {
	z, err := zip.OpenReader(file)
	if missing(err) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	defer z.Close()
	for _, f := range z.File {
		if f.FileInfo().IsDir() {
			continue
		}
		take, err := pick(f.Name)
		if err == nil && take {
			err = readMember(f, each)
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", file, f.Name, err)
		}
	}
	return nil
}

func readMember(f *zip.File, each func(name string, data []byte)) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := readAtMost(r)
	if err == nil {
		each(f.Name, b)
	}
	return err
}

// openGzip opens a file, through gzip when its name says so.
func openGzip(file string) (io.Reader, func() error, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	if !strings.HasSuffix(file, "gz") {
		return f, f.Close, nil
	}
	g, err := gzip.NewReader(f)
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	return g, f.Close, nil
}

// readCIFAR reads the archives of cifar10/: <split>.tar.gz (or .tgz, .tar) with members
// <split>/<class>/<name>.jpg. A member without a folder for its split has its archive's.
func readCIFAR(dir, split string) ([]sample, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []sample
	found := false
	for _, e := range entries {
		mark, suffix, _ := strings.Cut(e.Name(), ".")
		if !slices.Contains([]string{"tar.gz", "tgz", "tar"}, suffix) {
			continue
		}
		found = true
		if slices.Contains([]string{"train", "val", "test"}, mark) && !wanted(mark, split) {
			continue
		}
		file := filepath.Join(dir, e.Name())
		if out, err = appendTar(out, file, mark, split); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	if !found {
		return nil, fmt.Errorf("%s: no .tar.gz: %w", dir, fs.ErrNotExist)
	}
	return byName(out), nil
}

func appendTar(out []sample, file, mark, split string) ([]sample, error) {
	r, done, err := openGzip(file)
	if err != nil {
		return nil, err
	}
	defer done()
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		parts := strings.Split(path.Clean(h.Name), "/")
		if h.Typeflag != tar.TypeReg || strings.HasPrefix(parts[len(parts)-1], ".") {
			continue
		}
		if len(parts) < 2 {
			return nil, fmt.Errorf("%s: want <split>/<class>/<name>", h.Name)
		}
		own := mark
		if len(parts) > 2 {
			own = parts[len(parts)-3]
		}
		if !wanted(own, split) {
			continue
		}
		b, err := readAtMost(t)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, err)
		}
		out = append(out, sample{name: h.Name, data: b, label: parts[len(parts)-2]})
	}
}

// firstTrainDigit is where train begins among the indexes of a speaker's digit.
const firstTrainDigit = 5

// readDigits reads fsdd/recordings.zip: <digit>_<speaker>_<index>.wav, indexes below 5 are test.
func readDigits(dir, split string) (out []sample, err error) {
	err = readZip(filepath.Join(dir, "recordings.zip"), func(name string) (bool, error) {
		base, isWAV := strings.CutSuffix(path.Base(name), ".wav")
		if !isWAV || strings.HasPrefix(base, ".") {
			return false, nil
		}
		parts := strings.Split(base, "_")
		i, err := strconv.Atoi(parts[len(parts)-1])
		if err != nil || len(parts) < 3 {
			return false, errors.New("want <digit>_<speaker>_<index>.wav")
		}
		mark := "train"
		if i < firstTrainDigit {
			mark = "test"
		}
		return wanted(mark, split), nil
	}, func(name string, b []byte) {
		digit, _, _ := strings.Cut(path.Base(name), "_")
		out = append(out, sample{name: name, data: b, label: digit})
	})
	return byName(out), err
}

// readESC reads esc10/clips.zip: <class>/<fold>-….mp3. Folds 1 to 4 are train, others test; a
// fold is also a split of its own, "fold3".
func readESC(dir, split string) (out []sample, err error) {
	err = readZip(filepath.Join(dir, "clips.zip"), func(name string) (bool, error) {
		base := path.Base(name)
		if strings.HasPrefix(base, ".") || path.Ext(base) == ".tsv" || path.Ext(base) == ".md" || path.Ext(base) == ".txt" {
			return false, nil
		}
		fold, _, ok := strings.Cut(base, "-")
		if !ok || path.Dir(name) == "." {
			return false, errors.New("want <class>/<fold>-<name>.mp3")
		}
		mark := "test"
		if slices.Contains([]string{"1", "2", "3", "4"}, fold) {
			mark = "train"
		}
		return wanted(mark, split) || split == "fold"+fold, nil
	}, func(name string, b []byte) {
		out = append(out, sample{name: name, data: b, label: path.Base(path.Dir(name))})
	})
	return byName(out), err
}

// jsonLines hands on the lines of a file of JSON objects, parsed into R. An error names the line.
func jsonLines[R any](file string, each func(line int, row R) error) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	n := 0
	for line := range bytes.Lines(b) {
		n++
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var row R
		err := json.Unmarshal(line, &row)
		if err == nil {
			err = each(n, row)
		}
		if err != nil {
			return fmt.Errorf("%s:%d: %w", file, n, err)
		}
	}
	return nil
}

// emojiRow is a line of emoji/captions.jsonl.
type emojiRow struct {
	Hex    string   `json:"hex"`
	Label  string   `json:"label"`
	Tags   []string `json:"tags"`
	Images map[string]struct {
		File  string `json:"file"`
		Split string `json:"split"`
	} `json:"images"`
}

// readEmoji reads the pictures of emoji/ whose split keep wants and that have a name. Their
// label is the concept. It also says how many pictures of captions.jsonl the archive lacks.
func readEmoji(dir string, keep func(split string) bool) (out []sample, absent int, err error) {
	rows := map[string]emojiRow{}
	err = jsonLines(filepath.Join(dir, "captions.jsonl"), func(_ int, r emojiRow) error {
		if r.Hex == "" {
			return errors.New(`no "hex"`)
		}
		for style, img := range r.Images {
			if img.File == "" {
				return fmt.Errorf("images.%s: no file", style)
			}
			if _, twice := rows[img.File]; twice {
				return fmt.Errorf("images.%s: %s stands in an earlier line too", style, img.File)
			}
			if keep(img.Split) && r.Label != "" {
				rows[img.File] = r
			}
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	err = readZip(filepath.Join(dir, "images.zip"), func(name string) (bool, error) {
		_, ok := rows[name]
		return ok, nil
	}, func(name string, b []byte) {
		r := rows[name]
		out = append(out, sample{name: name, data: b, label: r.Hex, caption: r.Label, tags: r.Tags})
	})
	return byName(out), len(rows) - len(out), err
}

// readTSV reads a text file of columns split, …, label, text: as many as columns. Lines whose
// label is skip, and a line of column names, are left out.
func readTSV(file, split string, columns int, skip string) ([]sample, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []sample
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<24)
	n := 0
	for lines.Scan() {
		n++
		line := strings.TrimSuffix(lines.Text(), "\r")
		cols := strings.SplitN(line, "\t", columns)
		if strings.TrimSpace(line) == "" || n == 1 && cols[0] == "split" {
			continue
		}
		if len(cols) < columns {
			return nil, fmt.Errorf("%s:%d: %d columns, want %d", file, n, len(cols), columns)
		}
		label := cols[columns-2]
		if label == skip || !wanted(cols[0], split) {
			continue
		}
		out = append(out, sample{name: fmt.Sprintf("line %d", n), data: []byte(cols[columns-1]), text: true, label: label})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", file, n+1, err)
	}
	return out, nil
}
