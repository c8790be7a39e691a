package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/weights"
)

// everything is a small composition that says every key of the schema.
const everything = `{
  "format": "mmserve/1", "model_type": "mmserve", "name": "all", "description": "says every key", "dtype": "f32", "row_channels": 24, "card": {"by": "hand"},
  "modalities": {
    "photo": {
      "adapter": "image", "options": {"position": "none"}, "input": {"axes": ["y", "x"], "channels": 3, "peak": 1},
      "stem": [{"out": 4, "kernel": [3, 3], "stride": [2, 2], "padding": [1, 1], "activation": "relu", "residual": false, "max_pool": [2, 2]}],
      "position": {"kind": "fourier", "bands": 2, "max_resolution": [8, 8]}
    },
    "words": {
      "adapter": "text", "options": {"code": "id", "position": "none"}, "input": {"axes": ["byte"], "channels": 1},
      "embedding": {"rows": 262, "channels": 6}, "stem": [], "position": {"kind": "learned", "rows": 64, "channels": 5}
    },
    "points": {"adapter": "pointcloud", "options": {"position": "none"}, "input": {"axes": ["point"], "channels": 3}, "position": {"kind": "none"}}
  },
  "encoder": {"num_latents": 3, "d_latents": 8, "d_model": 24, "num_blocks": 1, "num_self_attends_per_block": 1, "num_self_attention_heads": 2,
    "num_cross_attention_heads": 2, "qk_channels": null, "v_channels": 8, "cross_attention_shape_for_attention": "kv",
    "self_attention_widening_factor": 1, "cross_attention_widening_factor": 1, "hidden_act": "gelu", "use_query_residual": true},
  "decoder": {"num_heads": 2, "qk_channels": 8, "v_channels": null, "widening_factor": 1, "hidden_act": "gelu", "use_query_residual": true},
  "heads": {
    "kind": {"kind": "classes", "modalities": ["photo", "points"], "labels": ["a", "b"]},
    "space": {"kind": "embedding", "modalities": ["photo", "words", "points"], "dim": 4},
    "bytes": {"kind": "masked_bytes", "modalities": ["words"], "vocab_size": 262}
  },
  "resampler": {"kind": "openflamingo", "dim": 8, "depth": 1, "heads": 2, "dim_head": 4, "num_latents": 2, "ff_mult": 1},
  "caption": {"kind": "openflamingo", "media_token_id": 262, "eoc_token_id": 2, "max_new_tokens": 5, "lang_model_type": "mpt",
    "decoder_layers_attr_name": "transformer.blocks", "cross_attn_every_n_layers": 1,
    "lang_config": {"model_type": "mpt", "vocab_size": 263, "d_model": 8, "n_heads": 2, "n_layers": 1, "expansion_ratio": 2, "max_seq_len": 16, "no_bias": true,
      "tie_word_embeddings": true, "attn_config": {"alibi": true}},
    "gated_cross_attn": {"heads": 2, "dim_head": 4, "ff_mult": 1, "dim_visual": 8, "only_attend_immediate_media": true}}
}`

// The checker knows every word that the schema is written in.
func TestSchemaIsUnderstood(t *testing.T) {
	d := json.NewDecoder(bytes.NewReader(NativeSchema()))
	d.DisallowUnknownFields()
	var s schema
	if err := d.Decode(&s); err != nil {
		t.Fatal(err)
	}
	for _, defs := range s.Defs {
		if strings.HasPrefix(defs.Ref, "#") && s.resolve(defs) == nil {
			t.Errorf("no %s", defs.Ref)
		}
	}
}

// keysOf are the keys of an object's schema, of all its alternatives.
func keysOf(s *schema) []string {
	keys := slices.Collect(maps.Keys(s.Properties))
	for _, o := range s.OneOf {
		keys = append(keys, keysOf(o)...)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// Every key of the schema is read, and every key that is read is in the schema.
func TestSchemaAndLoaderKnowTheSameKeys(t *testing.T) {
	root := nativeSchema()
	modality := root.Defs["modality"].Properties
	for _, c := range []struct {
		name string
		s    *schema
		read any
	}{
		{"model.json", root, nativeConfig{}}, {"modality", root.Defs["modality"], nativeModality{}}, {"input", modality["input"], nativeInput{}},
		{"embedding", modality["embedding"], nativeTable{}}, {"stem", root.Defs["stemLayer"], nativeConv{}}, {"position", modality["position"], nativePosition{}},
		{"decoder", root.Defs["decoder"], nativeDecoder{}}, {"head", root.Defs["head"], nativeHead{}}, {"resampler", root.Defs["resampler"], nativeResampler{}},
	} {
		var read []string
		for f := range reflect.TypeOf(c.read).Fields() {
			read = append(read, f.Tag.Get("json"))
		}
		slices.Sort(read)
		if known := keysOf(c.s); !slices.Equal(known, read) {
			t.Errorf("%s: the schema has %v, the loader reads %v", c.name, known, read)
		}
	}
	// The parts in other configurations' words: a value that is no value of that key is noticed.
	for _, key := range keysOf(root.Defs["encoder"]) {
		if _, err := perceiver.ParseConfig(fmt.Appendf(nil, `{%q: {}}`, key)); err == nil {
			t.Errorf("encoder.%s is not read", key)
		}
	}
	caption := func(change func(caption, gated map[string]any)) error {
		var c map[string]map[string]any
		var all map[string]json.RawMessage
		if err := json.Unmarshal([]byte(everything), &all); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(fmt.Appendf(nil, `{"caption": %s}`, all["caption"]), &c); err != nil {
			t.Fatal(err)
		}
		change(c["caption"], c["caption"]["gated_cross_attn"].(map[string]any))
		_, err := parseCaption(mustJSON(c["caption"]))
		return err
	}
	if err := caption(func(_, _ map[string]any) {}); err != nil {
		t.Fatal(err)
	}
	for key, s := range root.Defs["caption"].Properties {
		if err := caption(func(c, _ map[string]any) { c[key] = []any{[]any{}} }); err == nil && s.Const == nil {
			t.Errorf("caption.%s is not read", key)
		}
	}
	for key := range root.Defs["caption"].Properties["gated_cross_attn"].Properties {
		if err := caption(func(_, g map[string]any) { g[key] = []any{[]any{}} }); err == nil {
			t.Errorf("caption.gated_cross_attn.%s is not read", key)
		}
	}
	said := map[string]bool{}
	var all any
	if err := json.Unmarshal([]byte(everything), &all); err != nil {
		t.Fatal(err)
	}
	visit(all, "", func(path string, object map[string]any, key string) { said[key] = true })
	for name, s := range root.Defs {
		for _, key := range keysOf(s) {
			if !said[key] {
				t.Errorf("the composition that says everything leaves out %s of %s", key, name)
			}
		}
	}
}

// visit calls f for every key of every object below v.
func visit(v any, path string, f func(path string, object map[string]any, key string)) {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			f(strings.TrimPrefix(path+"."+key, "."), v, key)
			visit(v[key], path+"."+key, f)
		}
	case []any:
		for i, x := range v {
			visit(x, fmt.Sprintf("%s[%d]", path, i), f)
		}
	}
}

// mutations are the texts of everything with one key dropped, renamed or given another value.
func mutations(t testing.TB, f func(path, text string)) {
	t.Helper()
	var all any
	if err := json.Unmarshal([]byte(everything), &all); err != nil {
		t.Fatal(err)
	}
	visit(all, "", func(path string, object map[string]any, key string) {
		was := object[key]
		for _, v := range []any{nil, true, "x", -1, 0, 1, 1.5, 1e9, 1e30, []any{}, []any{1, 2, 3}, []any{"photo", "photo"}, map[string]any{}, map[string]any{"kind": "x"}} {
			object[key] = v
			f(path, string(mustJSON(all)))
		}
		delete(object, key)
		f(path, string(mustJSON(all)))
		object[key+"x"] = was
		f(path, string(mustJSON(all)))
		delete(object, key+"x")
		object[key] = was
	})
}

// What the schema refuses the loader refuses, and its error names the place; what the schema
// lets through and the loader refuses does not fit together, and the error says where, too.
func TestSchemaAndLoaderAgree(t *testing.T) {
	if _, err := parseNative([]byte(everything)); err != nil {
		t.Fatal(err)
	}
	refused, unfit := 0, 0
	mutations(t, func(path, text string) {
		v, err := decodeJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		check := checker{root: nativeSchema()}
		check.check("", check.root, v)
		_, err = parseNative([]byte(text))
		place, _, _ := strings.Cut(path, ".")
		switch {
		case len(check.faults) > 0 && err == nil:
			t.Errorf("%s: the loader takes what the schema refuses: %v", path, check.faults)
		case len(check.faults) > 0:
			refused++
			if !strings.Contains(err.Error(), place) {
				t.Errorf("%s: %q does not say where", path, err)
			}
		case err != nil:
			unfit++
			if strings.Contains(err.Error(), "json:") || !strings.Contains(err.Error(), ": ") {
				t.Errorf("%s: the schema takes what the loader cannot read: %v", path, err)
			}
		}
	})
	if refused < 1000 || unfit < 15 {
		t.Errorf("only %d refused by the schema, %d unfit: the mutations miss something", refused, unfit)
	}
}

func TestSchemaErrors(t *testing.T) {
	for name, c := range map[string]struct{ old, new, says string }{
		"misspelt key":   {`"residual": false`, `"residul": false`, `modalities.photo.stem[0].residul: unknown key, did you mean "residual"?`},
		"swapped key":    {`"bands": 2`, `"bnads": 2`, `modalities.photo.position.bnads: unknown key, did you mean "bands"?`},
		"foreign key":    {`"dim": 4}`, `"dim": 4, "temperature": 1}`, `heads.space.temperature: unknown key, there are dim, kind, modalities`},
		"key elsewhere":  {`"dim": 4}`, `"dim": 4, "labels": []}`, `heads.space.labels: unknown key`},
		"type":           {`"d_latents": 8`, `"d_latents": "8"`, `encoder.d_latents: want integer, got "8"`},
		"fraction":       {`"bands": 2`, `"bands": 2.5`, `modalities.photo.position.bands: want integer, got 2.5`},
		"bound":          {`"n_layers": 1`, `"n_layers": 5000`, `caption.lang_config.n_layers: 5000, want at most 4096`},
		"list":           {`"stride": [2, 2]`, `"stride": [2, 2, 2]`, `modalities.photo.stem[0].stride: 3 values, want 1 to 2`},
		"element":        {`"stride": [2, 2]`, `"stride": [2, 0]`, `modalities.photo.stem[0].stride[1]: 0, want at least 1`},
		"choice":         {`"activation": "relu"`, `"activation": "tanh"`, `modalities.photo.stem[0].activation: want relu, gelu, identity, got "tanh"`},
		"kind":           {`"kind": "none"`, `"kind": "sine"`, `modalities.points.position.kind: want none, fourier, learned, got "sine"`},
		"no kind":        {`{"kind": "none"}`, `{}`, `modalities.points.position.kind: missing`},
		"missing":        {`"num_heads": 2, `, ``, `decoder.num_heads: missing`},
		"name":           {`"photo": {`, `"a.b": {`, `modalities: the name "a.b"`},
		"caption alone":  {`"resampler": {"kind": "openflamingo", "dim": 8, "depth": 1, "heads": 2, "dim_head": 4, "num_latents": 2, "ff_mult": 1},`, ``, `resampler: missing, and there is caption`},
		"twice":          {`"dtype": "f32",`, `"dtype": "f32", "dtype": "bf16",`, `the key "dtype" stands twice`},
		"after":          {`"name": "all"`, `"name": "all"}{`, `something stands after the JSON value`},
		"d_model":        {`"d_model": 24`, `"d_model": 25`, `encoder.d_model: 25, row_channels is 24`},
		"resampler.dim":  {`"dim": 8`, `"dim": 9`, `resampler.dim: 9, the encoder's d_latents is 8`},
		"labels":         {`["a", "b"]`, `["a", "a"]`, `heads.kind.labels: "a" stands twice`},
		"masked bytes":   {`"modalities": ["words"]`, `"modalities": ["photo"]`, `heads.bytes.modalities: "photo" is read by the adapter image, masked_bytes wants text`},
		"resolution":     {`"max_resolution": [8, 8]`, `"max_resolution": [8]`, `modalities.photo.position.max_resolution: 1 values, want one for each of 2 axes`},
		"several at one": {`"bands": 2`, `"bands": 0, "base": 3`, "modalities.photo.position.bands: 0, want at least 1\n\tmodalities.photo.position.base: unknown key"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Count(everything, c.old) == 0 {
				t.Fatalf("%q is not in it", c.old)
			}
			_, err := parseNative([]byte(strings.Replace(everything, c.old, c.new, 1)))
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %q in it", err, c.says)
			}
		})
	}
	if _, err := parseNative([]byte(strings.Replace(everything, `"row_channels": 24`, `"row_channels": 2.4e1`, 1))); err != nil {
		t.Errorf("24 written as 2.4e1: %v", err)
	}
}

// A weight file that does not fit names the tensor, its shape and the wanted one.
func TestCompositionWantsItsTensors(t *testing.T) {
	files := fstest.MapFS{"model.json": {Data: []byte(everything)}}
	d, err := readDirFS("", files)
	if err != nil {
		t.Fatal(err)
	}
	wanted, err := d.Wanted(t.Context(), Options{})
	if err != nil || len(wanted) == 0 {
		t.Fatalf("%d tensors, %v", len(wanted), err)
	}
	open := func(specs []weights.Spec) error {
		var b bytes.Buffer
		if err := weights.CopySafetensors(&b, weights.Seeded(specs...), nil); err != nil {
			t.Fatal(err)
		}
		files["model.safetensors"] = &fstest.MapFile{Data: b.Bytes()}
		_, err := OpenFS(t.Context(), files, Options{})
		return err
	}
	if err := open(wanted); err != nil {
		t.Fatal(err)
	}
	index := slices.IndexFunc(wanted, func(s weights.Spec) bool { return s.Name == "heads.kind.weight" })
	for name, c := range map[string]struct {
		specs []weights.Spec
		says  string
	}{
		"missing":    {slices.Delete(slices.Clone(wanted), index, index+1), `missing "heads.kind.weight" [2 8]`},
		"mis-shaped": {append(slices.Delete(slices.Clone(wanted), index, index+1), weights.Spec{Name: "heads.kind.weight", DType: weights.F32, Shape: []int{3, 8}}), `tensor "heads.kind.weight": shape [3 8], want [2 8]`},
		"left over":  {append(slices.Clone(wanted), weights.Spec{Name: "heads.extra.weight", DType: weights.F32, Shape: []int{3}}), `left over "heads.extra.weight" [3]`},
	} {
		t.Run(name, func(t *testing.T) {
			if err := open(c.specs); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %q in it", err, c.says)
			}
		})
	}
}

// Any bytes are a model.json that loads with some weights, or an error.
func FuzzModelJSON(f *testing.F) {
	f.Add([]byte(everything))
	n := 0
	mutations(f, func(_, text string) {
		if n++; n%97 == 0 {
			f.Add([]byte(text))
		}
	})
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := readDirFS("", fstest.MapFS{"model.json": {Data: text}})
		if err != nil || d.Arch != nativeArch {
			return
		}
		if _, err := d.Explain(); err != nil {
			return
		}
		c, err := parseNative(d.Config)
		if err != nil {
			t.Fatalf("explained, and then: %v", err)
		}
		if c.size() > 1<<20 {
			return // it may be right, and is too large to try
		}
		m, err := bind(t.Context(), d, weights.Random(1), Options{})
		if err != nil {
			return
		}
		if it := m.(Canary).Canary(); len(it.Parts) > 0 {
			if plan, err := m.Plan(t.Context(), it); err == nil && plan.FLOPs < 1e8 {
				_, _ = m.Encode(t.Context(), it, EncodeOptions{Outputs: []string{"all"}})
			}
		}
	})
}

// size bounds the values of a composition's larger tensors from below.
func (c *nativeConfig) size() int {
	e, err := perceiver.ParseConfig(c.Encoder)
	if err != nil {
		return 0
	}
	wide := max(e.LatentDim, e.ModelDim) * max(e.SelfWidening, e.CrossWidening, e.QKChannels, e.VChannels, 1)
	n := wide*wide + e.NumBlocks*e.SelfPerBlock*e.LatentDim*e.LatentDim + e.NumLatents*e.LatentDim
	for _, m := range c.Modalities {
		if m.Embedding != nil {
			n += m.Embedding.Rows * m.Embedding.Channels
		}
		n += m.Position.Rows*m.Position.Channels + c.RowChannels*m.Position.Bands
		in := max(m.Input.Channels, 1)
		if m.Embedding != nil {
			in = m.Embedding.Channels
		}
		for _, l := range m.Stem {
			k := 1
			for _, x := range l.Kernel {
				k *= x
			}
			n, in = n+in*l.Out*k, l.Out
		}
	}
	for _, h := range c.Heads {
		n += h.width() * e.LatentDim
	}
	if d := c.Decoder; d != nil {
		n += e.LatentDim * max(d.QK, d.V, e.LatentDim) * d.Widening
	}
	if r := c.Resampler; r != nil {
		n += r.Depth*r.Dim*(r.Heads*r.DimHead+r.Dim*r.FFMult) + r.Latents*r.Dim
	}
	if len(c.Caption) > 0 {
		if p, err := parseCaption(c.Caption); err == nil {
			l := p.lm
			n += l.Vocab*l.Width + l.Layers*l.Width*(l.Hidden+l.Width+l.Cross.Heads*l.Cross.HeadDim+l.Cross.Hidden) + l.Context*l.Width
		}
	}
	return n
}
