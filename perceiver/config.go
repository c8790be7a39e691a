package perceiver

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
)

// Config is a Perceiver IO configuration (Hugging Face's PerceiverConfig); keys that a file
// leaves out have the documented defaults. Zero QKChannels and VChannels stand for null.
type Config struct {
	Architecture string // architectures[0]

	NumLatents   int // N, num_latents
	LatentDim    int // D, d_latents
	ModelDim     int // d_model: width of text embeddings and of the bare model's input
	NumBlocks    int // passes over the same self-attention layers
	SelfPerBlock int // num_self_attends_per_block
	SelfHeads    int
	CrossHeads   int
	QKChannels   int
	VChannels    int

	// CrossShape, "kv" or "q", is what null channels of a cross-attention follow:
	// cross_attention_shape_for_attention.
	CrossShape       string
	SelfWidening     int
	CrossWidening    int
	Act              kernel.Act // hidden_act
	UseQueryResidual bool       // of the encoder's cross-attention

	VocabSize    int
	MaxPositions int // max_position_embeddings

	ImageSize int   // image_size: pixels for learned positions; after patching for multimodal
	TrainSize []int // train_size: optical flow, height and width

	NumFrames            int
	AudioSamplesPerFrame int
	SamplesPerPatch      int
	OutputShape          []int // output_shape: batch, frames, height, width
	OutputChannels       int   // output_num_channels
	LabelChannels        int   // _label_trainable_num_channels

	NumLabels int
	Labels    []string // id2label in order of ids; nil when absent
}

// ParseConfig reads a config.json and checks it. The error names every key at fault.
func ParseConfig(text []byte) (Config, error) {
	f, err := parseFields(text)
	if err != nil {
		return Config{}, err
	}
	c := Config{
		NumLatents:           f.integer("num_latents", 256, 1),
		LatentDim:            f.integer("d_latents", 1280, 1),
		ModelDim:             f.integer("d_model", 768, 0),
		NumBlocks:            f.layers("num_blocks", 1, 1),
		SelfPerBlock:         f.layers("num_self_attends_per_block", 26, 1),
		SelfHeads:            f.integer("num_self_attention_heads", 8, 1),
		CrossHeads:           f.integer("num_cross_attention_heads", 8, 1),
		QKChannels:           f.optional("qk_channels"),
		VChannels:            f.optional("v_channels"),
		CrossShape:           f.text("cross_attention_shape_for_attention", "kv"),
		SelfWidening:         f.integer("self_attention_widening_factor", 1, 1),
		CrossWidening:        f.integer("cross_attention_widening_factor", 1, 1),
		UseQueryResidual:     f.flag("use_query_residual", true),
		VocabSize:            f.integer("vocab_size", 262, 1),
		MaxPositions:         f.integer("max_position_embeddings", 2048, 1),
		ImageSize:            f.integer("image_size", 56, 1),
		TrainSize:            f.sizes("train_size", 368, 496),
		NumFrames:            f.integer("num_frames", 16, 1),
		AudioSamplesPerFrame: f.integer("audio_samples_per_frame", 1920, 1),
		SamplesPerPatch:      f.integer("samples_per_patch", 16, 1),
		OutputShape:          f.sizes("output_shape", 1, 16, 224, 224),
		OutputChannels:       f.integer("output_num_channels", 512, 1),
		LabelChannels:        f.integer("_label_trainable_num_channels", 1024, 1),
	}
	c.Architecture = f.architecture()
	c.labels(f)
	if act, err := nn.ParseAct(f.text("hidden_act", "gelu")); err != nil {
		f.fault("%q: %v", "hidden_act", err)
	} else {
		c.Act = act
	}
	c.check(f)
	return c, f.err()
}

// architecture is the first of "architectures".
func (f *fields) architecture() string {
	var list []string
	if !f.get("architectures", &list, "a list of strings") {
		return ""
	}
	if len(list) == 0 {
		f.fault("%q: empty", "architectures")
		return ""
	}
	return list[0]
}

// labels sets NumLabels and Labels: id2label decides, then num_labels, then 2.
func (c *Config) labels(f *fields) {
	c.NumLabels = f.integer("num_labels", 2, 1)
	var byID map[string]string
	if !f.get("id2label", &byID, "an object of strings") || len(byID) == 0 {
		return
	}
	c.NumLabels = len(byID)
	c.Labels = make([]string, len(byID))
	for id, label := range byID {
		i, err := strconv.Atoi(id)
		if err != nil || i < 0 || i >= len(byID) {
			f.fault("%q: id %.20q is not in [0, %d)", "id2label", id, len(byID))
			return
		}
		c.Labels[i] = label
	}
}

// check holds what the reference's constructors check, so that a bad combination is refused
// here with its key and not met as a shape fault later.
func (c *Config) check(f *fields) {
	if c.CrossShape != "kv" && c.CrossShape != "q" {
		f.fault("%q: want \"kv\" or \"q\", got %q", "cross_attention_shape_for_attention", c.CrossShape)
	}
	c.divides(f, "d_latents", c.LatentDim, "num_self_attention_heads", c.SelfHeads)
	c.divides(f, "d_latents", c.LatentDim, "num_cross_attention_heads", c.CrossHeads)
	qk, v := c.selfChannels()
	c.divides(f, "qk_channels", qk, "num_self_attention_heads", c.SelfHeads)
	if v != c.LatentDim {
		f.fault("\"v_channels\": self-attention adds its result to the latents, so v_channels (or qk_channels when it is null) must be d_latents: %d, want %d", v, c.LatentDim)
	}
	if len(c.TrainSize) != 2 {
		f.fault("%q: want height and width, got %v", "train_size", c.TrainSize)
	}
	f.product("train_size", c.TrainSize)
	f.product("output_shape", c.OutputShape)
	f.product("image_size", []int{c.ImageSize, c.ImageSize})
	f.product("num_frames", []int{c.NumFrames, c.AudioSamplesPerFrame})
	if len(c.OutputShape) != 4 {
		f.fault("%q: want batch, frames, height and width, got %v", "output_shape", c.OutputShape)
	}
}

func (c *Config) divides(f *fields, key string, n int, headsKey string, heads int) {
	if n%heads != 0 {
		f.fault("%q: %d is not a multiple of %q %d", key, n, headsKey, heads)
	}
}

// selfChannels are the query/key and value widths of the latents' self-attention.
func (c Config) selfChannels() (qk, v int) {
	qk, v = c.QKChannels, c.VChannels
	if qk == 0 {
		qk = c.LatentDim
	}
	if v == 0 {
		v = qk
	}
	return qk, v
}

// crossChannels are the widths of a cross-attention of queries q wide over keys kv wide, for
// configured widths (0 for null).
func (c Config) crossChannels(qk, v, q, kv int) (int, int) {
	if qk == 0 {
		qk = kv
		if c.CrossShape == "q" {
			qk = q
		}
	}
	if v == 0 {
		v = qk
	}
	return qk, v
}

// maxLatentValues bounds the latents and their queries, which are kept with the model.
const maxLatentValues = 1 << 28

// checkCross refuses an encoder whose input is kv wide when its heads do not divide the widths.
func (c Config) checkCross(kv int) error {
	if kv < 1 {
		return fmt.Errorf("perceiver: config: \"d_model\": want at least 1, got %d", kv)
	}
	qk, v := c.crossChannels(c.QKChannels, c.VChannels, c.LatentDim, kv)
	if widest := max(qk, v, kv, c.LatentDim); c.NumLatents > maxLatentValues/widest {
		return fmt.Errorf("perceiver: config: \"num_latents\": %d of up to %d channels, want a product of at most %d", c.NumLatents, widest, maxLatentValues)
	}
	for _, w := range []struct {
		key string
		n   int
	}{{"qk_channels", qk}, {"v_channels", v}} {
		if w.n%c.CrossHeads != 0 {
			return fmt.Errorf("perceiver: config: %q: the cross-attention over %d input channels is %d wide, not a multiple of \"num_cross_attention_heads\" %d",
				w.key, kv, w.n, c.CrossHeads)
		}
	}
	return nil
}

// Architecture returns the first entry of "architectures" of a config.json.
func Architecture(config []byte) (string, error) {
	var c struct {
		Architectures []string `json:"architectures"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return "", fmt.Errorf("perceiver: config: %w", err)
	}
	if len(c.Architectures) == 0 {
		return "", fmt.Errorf("perceiver: config: \"architectures\": absent or empty; want one of %v", Architectures())
	}
	return c.Architectures[0], nil
}

// Architectures lists the names that Load knows, sorted.
func Architectures() []string {
	var names []string
	for n := range loaders {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
