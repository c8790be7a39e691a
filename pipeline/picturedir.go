package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"

	"github.com/mmserve/mmserve/flamingo/tokenizer"
	"github.com/mmserve/mmserve/pipeline/conditioned"
	"github.com/mmserve/mmserve/weights"
)

// pictureParts are the keys of a model.json (or config.json) that names the parts of a model
// published in several places. Paths are inside the directory; a part is a file or a directory.
type pictureParts struct {
	ModelType string `json:"model_type"`
	// OpenFlamingo
	Checkpoint string          `json:"checkpoint"`     // default checkpoint.pt, checkpoint.safetensors
	Lang       string          `json:"language_model"` // default language_model, lang_model.safetensors
	Vision     string          `json:"vision_tower"`   // default vision_tower, vision_model.safetensors
	LangConfig json.RawMessage `json:"lang_config"`    // default language_model/config.json
	ViewConfig json.RawMessage `json:"vision_config"`  // default vision_tower/config.json
	MediaToken *int            `json:"media_token_id"` // default from the tokenizer
	// PictureOnly leaves the language model out.
	PictureOnly bool `json:"picture_only"`
	// IP-Adapter
	Adapter string `json:"adapter"`       // the .safetensors or .bin
	Encoder string `json:"image_encoder"` // default image_encoder
}

// pictureKinds are the model types of architectures named alone.
var pictureKinds = map[string]string{
	"OpenFlamingo": "openflamingo", "IPAdapter": "ip_adapter_plus", "MiniCPMV": "minicpmv",
	"IdeficsForVisionText2Text": "idefics", "Idefics2ForConditionalGeneration": "idefics2",
}

// layout is a directory understood.
type layout struct {
	parts       pictureParts
	config      []byte // for conditioned
	tok         *tokenizer.Tokenizer
	family      pictureFamily
	pictureOnly bool
}

// layoutOf reads the small files of a picture model's directory.
func layoutOf(d *Dir) (*layout, error) {
	l := &layout{config: d.Config}
	if err := json.Unmarshal(d.Config, &l.parts); err != nil {
		return nil, fmt.Errorf("pipeline: %s: %w", d.name(), err)
	}
	kind := l.parts.ModelType
	if kind == "" {
		kind = d.Arch
	}
	if k, ok := pictureKinds[kind]; ok {
		kind = k
	}
	switch kind {
	case "OpenFlamingo":
		kind = "openflamingo"
	case "IPAdapter", "ip_adapter_plus_resampler":
		kind = "ip_adapter_plus"
	}
	l.family, l.pictureOnly = pictureFamilies[kind], l.parts.PictureOnly
	var err error
	switch kind {
	case "openflamingo":
		err = l.openFlamingo(d)
	case "ip_adapter_plus":
		err = l.ipAdapter(d)
	case "idefics", "idefics2":
		l.tok, err = readTokenizer(d, "tokenizer.json")
	case "minicpmv":
		err = l.miniCPMV(d)
	default:
		err = fmt.Errorf("pipeline: %s: model_type %q is no picture model", d.name(), kind)
	}
	return l, err
}

// first returns the first path that exists, "" for none.
func first(d *Dir, paths ...string) string {
	for _, p := range paths {
		if p == "" {
			continue
		}
		if _, err := fs.Stat(d.FS, filepath.ToSlash(filepath.Clean(p))); err == nil {
			return filepath.Clean(p)
		}
	}
	return ""
}

func readTokenizer(d *Dir, paths ...string) (*tokenizer.Tokenizer, error) {
	p := first(d, paths...)
	if p == "" {
		return nil, nil
	}
	b, err := d.File(p)
	if err != nil {
		return nil, err
	}
	return tokenizer.Parse(b)
}

// openFlamingo completes the configuration: the parts' own config.json where the file does not
// state them, and the ids of the tokens that OpenFlamingo adds to the base tokenizer.
func (l *layout) openFlamingo(d *Dir) error {
	p := &l.parts
	p.Checkpoint = first(d, p.Checkpoint, "checkpoint.pt", "checkpoint.safetensors")
	p.Lang = first(d, p.Lang, "language_model", "lang_model.safetensors")
	p.Vision = first(d, p.Vision, "vision_tower", "vision_model.safetensors")
	for what, path := range map[string]string{"checkpoint": p.Checkpoint, "vision_tower": p.Vision} {
		if path == "" {
			return fmt.Errorf("pipeline: %s: no %s", d.name(), what)
		}
	}
	l.pictureOnly = l.pictureOnly || p.Lang == ""
	tok, err := readTokenizer(d, "tokenizer.json", filepath.Join(p.Lang, "tokenizer.json"))
	if err != nil {
		return err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(d.Config, &fields); err != nil {
		return fmt.Errorf("pipeline: %s: %w", d.name(), err)
	}
	fields["model_type"] = json.RawMessage(`"openflamingo"`)
	for key, part := range map[string]string{"lang_config": p.Lang, "vision_config": p.Vision} {
		if fields[key] == nil {
			b, err := d.File(filepath.Join(part, configFile))
			if err != nil {
				return err
			}
			fields[key] = b
		}
	}
	if tok != nil {
		l.tok = l.added(d, tok)
		if fields["media_token_id"] == nil {
			for key, token := range map[string]string{"eoc_token_id": "<|endofchunk|>", "media_token_id": "<image>", "pad_token_id": "<PAD>"} {
				if id, ok := l.tok.ID(token); ok {
					fields[key] = mustJSON(id)
				}
			}
		}
	}
	l.config = mustJSON(fields)
	return nil
}

// added puts OpenFlamingo's tokens behind the base tokenizer's: <PAD> only where there is no
// token for padding.
func (l *layout) added(d *Dir, tok *tokenizer.Tokenizer) *tokenizer.Tokenizer {
	more := []string{"<|endofchunk|>", "<image>"}
	var files [][]byte
	for _, dir := range []string{"", l.parts.Lang} {
		for _, name := range []string{"tokenizer_config.json", "special_tokens_map.json"} {
			if b, err := d.File(filepath.Join(dir, name)); err == nil {
				files = append(files, b)
			}
		}
	}
	if !pad(files...) {
		more = append(more, "<PAD>")
	}
	return tok.With(more...)
}

// miniCPMV adds the id of the token that soft tokens replace.
func (l *layout) miniCPMV(d *Dir) error {
	var err error
	if l.tok, err = readTokenizer(d, "tokenizer.json"); err != nil || l.tok == nil {
		return err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(d.Config, &fields); err != nil {
		return fmt.Errorf("pipeline: %s: %w", d.name(), err)
	}
	if id, ok := l.tok.ID("<unk>"); ok && fields["soft_token_id"] == nil {
		fields["soft_token_id"] = mustJSON(id)
		l.config = mustJSON(fields)
	}
	return nil
}

// endIDs are the eos_token_id of a configuration and of the language model inside it: one id,
// or a list.
func endIDs(config []byte) []int {
	type ends struct {
		EOS json.RawMessage `json:"eos_token_id"`
	}
	var c struct {
		ends
		Lang ends `json:"lang_config"`
		Text ends `json:"text_config"`
	}
	if json.Unmarshal(config, &c) != nil {
		return nil
	}
	var ids []int
	for _, raw := range []json.RawMessage{c.EOS, c.Lang.EOS, c.Text.EOS} {
		var one int
		var many []int
		switch {
		case len(raw) == 0 || string(raw) == "null":
		case json.Unmarshal(raw, &one) == nil:
			ids = append(ids, one)
		case json.Unmarshal(raw, &many) == nil:
			ids = append(ids, many...)
		}
	}
	return ids
}

// hasKey reports whether a JSON object has a key that is not null.
func hasKey(object []byte, key string) bool {
	fields := map[string]json.RawMessage{}
	if json.Unmarshal(object, &fields) != nil {
		return false
	}
	v, ok := fields[key]
	return ok && string(v) != "null"
}

// ipAdapter makes the configuration from the adapter's shapes and its encoder's config.json.
func (l *layout) ipAdapter(d *Dir) error {
	p := &l.parts
	p.Encoder = first(d, p.Encoder, "image_encoder")
	if p.Adapter = first(d, p.Adapter); p.Adapter == "" || p.Encoder == "" {
		return fmt.Errorf("pipeline: %s: an IP-Adapter names its \"adapter\" file and its \"image_encoder\" directory", d.name())
	}
	encoder, err := d.File(filepath.Join(p.Encoder, configFile))
	if err != nil {
		return err
	}
	src, err := weights.Open(filepath.Join(d.Path, p.Adapter))
	if err != nil {
		return err
	}
	defer src.Close()
	l.config, err = conditioned.IPAdapterConfig(src, encoder)
	return err
}

// joinPictures opens every part of a picture model and joins them.
func joinPictures(d *Dir, opt Options) (weights.Source, func(), error) {
	if c, err := weights.Open(d.Path); err == nil {
		if bareResampler(d, below(c)) {
			return c, func() { c.Close() }, nil
		}
		c.Close()
	}
	l, err := layoutOf(d)
	if err != nil {
		return nil, nil, err
	}
	var open []*weights.Checkpoint
	done := func() {
		for _, c := range open {
			c.Close()
		}
	}
	var from conditioned.Sources
	add := func(dst *weights.Source, part string) {
		if err != nil || part == "" && dst != &from.Model {
			return
		}
		c, e := weights.Open(filepath.Join(d.Path, part))
		if e != nil {
			err = errors.Join(err, e)
			return
		}
		open = append(open, c)
		*dst = c
	}
	switch {
	case l.parts.Adapter != "":
		add(&from.Model, l.parts.Adapter)
		add(&from.Vision, l.parts.Encoder)
	case l.parts.Checkpoint != "":
		add(&from.Model, l.parts.Checkpoint)
		add(&from.Vision, l.parts.Vision)
		if !l.pictureOnly {
			add(&from.Lang, l.parts.Lang)
		}
	default:
		add(&from.Model, "")
	}
	var src weights.Source
	if err == nil {
		src, err = conditioned.Join(l.config, from, conditioned.Options{PictureOnly: l.pictureOnly})
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return src, done, nil
}

// pictureFiles lists the files of a picture model's parts, and what reads text and pixels
// beside them.
func pictureFiles(d *Dir) ([]string, error) {
	l, err := layoutOf(d)
	if err != nil {
		return nil, err
	}
	parts := []string{l.parts.Checkpoint, l.parts.Vision, l.parts.Adapter, l.parts.Encoder}
	if !l.pictureOnly {
		parts = append(parts, l.parts.Lang)
	}
	beside := []string{"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", preprocessorFile}
	var files []string
	for _, part := range append(parts, ".") {
		if part == "" {
			continue
		}
		part = filepath.ToSlash(part)
		info, err := fs.Stat(d.FS, part)
		if err != nil {
			return nil, fmt.Errorf("pipeline: %s: %w", d.Path, err)
		}
		if !info.IsDir() {
			files = append(files, part)
			continue
		}
		patterns := beside
		if part != "." {
			patterns = append(append([]string{configFile}, beside...), weightPatterns...)
		}
		for _, p := range patterns {
			found, err := fs.Glob(d.FS, path.Join(part, p))
			if err != nil {
				return nil, err
			}
			files = append(files, found...)
		}
	}
	return files, nil
}
