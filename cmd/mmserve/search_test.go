package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// found runs a search and returns its files without the directory, and what was said.
func found(t *testing.T, dir string, args ...string) (files []string, said string) {
	t.Helper()
	code, out, errs := mmserve(t, append([]string{"search", "--json"}, args...)...)
	if code != 0 {
		t.Fatalf("status %d: %s", code, errs)
	}
	var hits []searchHit
	if err := json.Unmarshal([]byte(out), &hits); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	last := 2.0
	for _, h := range hits {
		name, err := filepath.Rel(dir, h.File)
		if err != nil || h.Score > last || h.Score < -1.001 || h.Modality == "" {
			t.Errorf("%+v, %v", h, err)
		}
		last = h.Score
		files = append(files, filepath.ToSlash(name))
	}
	return files, errs
}

// sampleDir is a directory of a few samples of every medium, below folders, among other files.
func sampleDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"emoji-1f622.png", "emoji-1f445.png", "esc10-rooster.mp3", "esc10-rain.mp3", "shape-seat.ply"} {
		b, err := os.ReadFile(data("samples", name))
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, b, dir, strings.TrimSuffix(name, filepath.Ext(name))[:4], name)
	}
	writeFile(t, []byte("a few words"), dir, "words.txt")
	writeFile(t, []byte("not indexed"), dir, ".git", "config.txt")
	writeFile(t, []byte("\x89PNG\r\n\x1a\nbroken"), dir, "broken.png")
	return dir
}

// Every file finds itself first, whatever its medium; words find files; the index is kept,
// and follows what changes.
func TestSearch(t *testing.T) {
	dir := sampleDir(t)
	index := filepath.Join(dir, indexName)
	for _, name := range []string{"emoj/emoji-1f622.png", "esc1/esc10-rooster.mp3", "shap/shape-seat.ply", "words.txt"} {
		files, _ := found(t, dir, dir, filepath.Join(dir, name), "-k", "6")
		if len(files) != 6 || files[0] != name {
			t.Errorf("%s finds %v", name, files)
		}
	}
	if _, said := found(t, dir, dir, "a crying face"); said != "" {
		t.Errorf("a second search says %q", said)
	}
	if files, _ := found(t, dir, dir, "a few words", "--top", "1"); len(files) != 1 || files[0] != "words.txt" {
		t.Errorf("the file's own words find %v", files)
	}
	if files, _ := found(t, dir, dir, "a few words", "--only", "audio,pointcloud"); len(files) != 3 {
		t.Errorf("three sounds and clouds were %v", files)
	}

	// What changed is embedded again, what is gone is dropped, the rest is taken from the index.
	before, err := openIndex(index, modelOf(t, index))
	if err != nil || len(before.files) != 7 || before.files["broken.png"].vector != nil || before.files["broken.png"].Fault == "" {
		t.Fatalf("%+v, %v", before, err)
	}
	words := filepath.Join(dir, "words.txt")
	writeFile(t, []byte("other words"), words)
	if err := os.Remove(filepath.Join(dir, "esc1", "esc10-rain.mp3")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(dir, "emoj", "emoji-1f445.png"), time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if files, said := found(t, dir, dir, words); files[0] != "words.txt" || said != "" {
		t.Errorf("%v, says %q", files, said)
	}
	after, err := openIndex(index, modelOf(t, index))
	if err != nil || len(after.files) != 6 {
		t.Fatalf("%+v, %v", after, err)
	}
	for name, same := range map[string]bool{"words.txt": false, "emoj/emoji-1f622.png": true, "emoj/emoji-1f445.png": true} {
		if s := similarity(before.files[name].vector, after.files[name].vector); (s > 0.99999) != same {
			t.Errorf("%s: similarity of before and after %v", name, s)
		}
	}
	if after.files["emoj/emoji-1f445.png"].Time != time.Unix(1, 0).UnixNano() {
		t.Error("the file's new time is not in the index")
	}
}

// modelOf is the model that made an index.
func modelOf(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, model, err := parseIndex(b)
	if err != nil {
		t.Fatal(err)
	}
	return model
}

// An index that is damaged, of another format or another model is made anew; one that cannot be
// written is done without.
func TestSearchIndexFaults(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 {
		writeFile(t, fmt.Appendf(nil, "text number %d", i), dir, fmt.Sprintf("%d.txt", i))
	}
	index := filepath.Join(dir, indexName)
	query := []string{dir, "text number 1", "-k", "1"}
	found(t, dir, query...)
	good, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	vectors := 8 + int(binary.LittleEndian.Uint64(good)) // behind the header and its length
	for name, c := range map[string]struct {
		data []byte
		says string
	}{
		"cut":          {good[:len(good)-9], "made anew"},
		"empty":        {nil, "made anew"},
		"other format": {[]byte(strings.Replace(string(good), indexFormat, "mmserve-index/9", 1)), `format "mmserve-index/9"`},
		"zeroed":       {append(good[:vectors:vectors], make([]byte, len(good)-vectors)...), "has length 0, want 1"},
		"files lost":   {[]byte(strings.Replace(string(good), "2.txt", `2.\"t`, 1)), "made anew"},
		"other model":  {[]byte(strings.Replace(string(good), "mmserve-default sha256:", "mmserve-defauld sha256:", 1)), ""},
	} {
		t.Run(name, func(t *testing.T) {
			writeFile(t, c.data, index)
			files, said := found(t, dir, query...)
			if files[0] != "1.txt" || !strings.Contains(said, c.says) || c.says == "" && said != "" {
				t.Errorf("finds %v, says %q, want %q", files, said, c.says)
			}
			now, err := os.ReadFile(index)
			if err != nil || string(now) != string(good) {
				t.Errorf("the index is not as before (%v)", err)
			}
		})
	}
	t.Run("no place for it", func(t *testing.T) {
		os.Remove(index)
		files, said := found(t, dir, append(query, "--index", filepath.Join(dir, "nowhere", "index"))...)
		if files[0] != "1.txt" || !strings.Contains(said, "the index is not kept") {
			t.Errorf("finds %v, says %q", files, said)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 3 {
			t.Errorf("%v was left in the directory", entries)
		}
	})
	t.Run("another place", func(t *testing.T) {
		elsewhere := filepath.Join(t.TempDir(), "index")
		if files, said := found(t, dir, append(query, "--index", elsewhere)...); files[0] != "1.txt" || said != "" {
			t.Errorf("finds %v, says %q", files, said)
		}
		if _, err := os.Stat(elsewhere); err != nil {
			t.Error(err)
		}
	})
}

func TestSearchErrors(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "a.png")
	writeFile(t, []byte("\x89PNG\r\n\x1a\nbroken"), broken)
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no query":         {[]string{dir}, 2, "want DIR and QUERY"},
		"no directory":     {[]string{"nowhere", "x"}, 1, "nowhere"},
		"a file":           {[]string{broken, "x"}, 2, "is no directory"},
		"mistyped file":    {[]string{dir, "sevn.wav"}, 1, "sevn.wav"},
		"broken query":     {[]string{dir, broken}, 1, "a.png"},
		"nothing readable": {[]string{dir, "x"}, 1, "holds no file that the model can read"},
		"unknown medium":   {[]string{"--only", "smell", dir, "x"}, 2, "audio, image, pointcloud, text"},
		"none":             {[]string{"-k", "0", dir, "x"}, 2, "below 1"},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, errs := mmserve(t, append([]string{"search"}, c.args...)...)
			if code != c.code || !strings.Contains(errs, c.says) {
				t.Errorf("status %d, want %d; says %q, want %q in it", code, c.code, errs, c.says)
			}
		})
	}
}
