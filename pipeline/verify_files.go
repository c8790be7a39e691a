package pipeline

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mmserve/mmserve/internal/feed"
	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// wholeCases run the cases that are no model: pictures and files. They hold no
// expected.safetensors.
var wholeCases = map[string]func(ctx context.Context, dir fs.FS, v *Verdict) error{
	"vision/preprocess": verifyPreprocess,
	"flamingo/wire":     verifyWire,
}

// verifyWhole runs the case in dir if it is one of wholeCases.
func verifyWhole(ctx context.Context, dir string, v *Verdict) bool {
	fsys := os.DirFS(dir)
	text, err := (&Dir{Path: dir, FS: fsys}).File("case.json")
	if err != nil {
		return false
	}
	var head struct{ Name, Kind string }
	if json.Unmarshal(text, &head) != nil || wholeCases[head.Kind] == nil {
		return false
	}
	v.Name = cmp.Or(head.Name, filepath.Base(dir))
	v.Err = wholeCases[head.Kind](ctx, fsys, v)
	v.Pass = v.Err == nil
	return true
}

// judge notes the distance of one stage from its reference.
func (v *Verdict) judge(stage string, diff, tol float64) error {
	v.Stages++
	if v.Stage == "" || diff-tol > v.MaxAbs-v.Tolerance {
		v.Stage, v.MaxAbs, v.Tolerance = stage, diff, tol
	}
	if !(diff <= tol) {
		return fmt.Errorf("pipeline: stage %q differs by %g, at most %g", stage, diff, tol)
	}
	return nil
}

// The tolerances of pictures, in units of a byte. A JPEG's decoders differ in how they turn
// frequencies into pixels; its later stages start from the reference's decoded picture.
const (
	jpegMean  = 1.5
	pixelsTol = 1e-6
)

// verifyPreprocess runs the published image processors over the case's pictures.
func verifyPreprocess(ctx context.Context, dir fs.FS, v *Verdict) error {
	var doc struct {
		Images []struct {
			File    string
			Presets map[string]struct {
				Size json.RawMessage
			}
		}
	}
	if err := readJSON(dir, "case.json", &doc); err != nil {
		return err
	}
	if len(doc.Images) == 0 {
		return fmt.Errorf("pipeline: the case lists no picture")
	}
	for _, img := range doc.Images {
		stem := strings.TrimSuffix(img.File, filepath.Ext(img.File))
		src, err := parseWeights(dir, stem+".expected.safetensors")
		if err != nil {
			return err
		}
		p := pictureCase{v: v, stem: stem, want: src}
		picture, err := p.decode(ctx, dir, img.File)
		if err != nil {
			return err
		}
		for preset, x := range img.Presets {
			if err := p.preset(ctx, picture, preset, x.Size); err != nil {
				return err
			}
		}
	}
	return nil
}

// pictureCase is one picture with what the reference made of it.
type pictureCase struct {
	v    *Verdict
	stem string
	want weights.Source
}

// decode compares the decoded picture and returns the reference's, for the stages after it.
func (p pictureCase) decode(ctx context.Context, dir fs.FS, file string) (*imagefile.Image, error) {
	data, err := fs.ReadFile(dir, file)
	if err != nil {
		return nil, err
	}
	img, err := imagefile.Decode(ctx, media.Bytes(file, data), imagefile.Options{})
	if err != nil {
		return nil, err
	}
	want, err := p.want.Load("decoded_rgb")
	if err != nil {
		return nil, err
	}
	if !strings.HasSuffix(file, ".jpg") {
		return img, p.bytes("decoded_rgb", img.RGB(imagefile.DropAlpha).Pix)
	}
	got, sum := img.RGB(imagefile.DropAlpha).Pix, 0.0
	if len(got) != len(want.Data) || len(want.Shape) != 3 {
		return nil, fmt.Errorf("pipeline: %s: %d bytes decoded, the reference has shape %v", file, len(got), want.Shape)
	}
	for i, b := range want.Data {
		sum += float64(max(int(b)-int(got[i]), int(got[i])-int(b)))
	}
	rgb := &imagefile.RGB{W: want.Shape[1], H: want.Shape[0], Pix: want.Data}
	img.NRGBA = rgb.NRGBA()
	return img, p.v.judge(p.stem+".decoded_rgb mean", sum/float64(len(got)), jpegMean)
}

// bytes compares bytes, which must be equal.
func (p pictureCase) bytes(name string, got []byte) error {
	want, err := p.want.Load(name)
	if err != nil {
		return err
	}
	if len(got) != len(want.Data) {
		return fmt.Errorf("pipeline: %s.%s: %d bytes, want shape %v", p.stem, name, len(got), want.Shape)
	}
	worst := 0
	for i, b := range want.Data {
		worst = max(worst, int(b)-int(got[i]), int(got[i])-int(b))
	}
	return p.v.judge(p.stem+"."+name, float64(worst), 0)
}

func (p pictureCase) has(name string) bool {
	_, _, ok := p.want.Stat(name)
	return ok
}

// preset runs one published processor and compares every stage that the reference kept.
func (p pictureCase) preset(ctx context.Context, img *imagefile.Image, preset string, size json.RawMessage) error {
	config := map[string]any{"image_processor_type": preset + "ImageProcessor", "do_image_splitting": false}
	if size != nil {
		config["size"] = size
	}
	proc, err := modality.ParseImageProcessor(mustJSON(config))
	if err != nil {
		return err
	}
	out, err := proc.Prepare(ctx, img)
	if err != nil {
		return err
	}
	got := out.Pictures[0].Pix
	if name := preset + ".resized_u8"; p.has(name) {
		resized := got
		if _, shape, _ := p.want.Stat(name); preset == "clip" && len(shape) == 3 { // before the crop
			resized = img.RGB(imagefile.DropAlpha).Resize(shape[1], shape[0], imagefile.Bicubic).Pix
		}
		if err := p.bytes(name, resized); err != nil {
			return err
		}
	}
	if name := preset + ".cropped_u8"; p.has(name) {
		if err := p.bytes(name, got); err != nil {
			return err
		}
	}
	name := preset + ".pixel_values"
	if !p.has(name) {
		return nil
	}
	want, err := p.want.Load(name)
	if err != nil {
		return err
	}
	diff, err := distance(proc.Normalise(out.Pictures).Values, want.Tensor())
	if err != nil {
		return fmt.Errorf("pipeline: %s.%s: %w", p.stem, name, err)
	}
	return p.v.judge(p.stem+"."+name, diff, pixelsTol)
}

// distance is the largest absolute difference of two tensors of one size.
func distance(a, b tensor.Tensor) (float64, error) {
	if len(a.Data) != len(b.Data) {
		return 0, fmt.Errorf("shape %v, want %v", a.Shape, b.Shape)
	}
	worst := 0.0
	for i, x := range a.Data {
		worst = max(worst, float64(x-b.Data[i]), float64(b.Data[i]-x))
	}
	return worst, nil
}

// wireFiles are the files of a wire case and the stored type of their tensor.
var wireFiles = map[string]weights.DType{
	"prompt_embeds-f32.pt": weights.F32, "prompt_embeds-f16.pt": weights.F16, "prompt_embeds-bf16.pt": weights.BF16,
	"minimal-bf16.pt": weights.BF16, "dict-f32.pt": weights.F32,
}

// verifyWire reads the case's torch files, and compares what is sent to language model servers
// with the files and requests of the references.
func verifyWire(_ context.Context, dir fs.FS, v *Verdict) error {
	values, err := parseWeights(dir, "values.safetensors")
	if err != nil {
		return err
	}
	want := map[weights.DType]weights.Raw{}
	for _, dt := range []weights.DType{weights.F32, weights.F16, weights.BF16} {
		if want[dt], err = values.Load("x_" + strings.ToLower(string(dt))); err != nil {
			return err
		}
	}
	equal := func(stage string, got []byte, dt weights.DType) error {
		diff := 0.0
		if !bytes.Equal(got, want[dt].Data) {
			diff = 1
		}
		return v.judge(stage, diff, 0)
	}
	for file, dt := range wireFiles {
		raw, err := onlyTensor(dir, file)
		if err != nil {
			return err
		}
		if err := equal(file, raw.Data, dt); err != nil {
			return err
		}
	}
	x := want[weights.F32].Tensor()
	npy, err := fs.ReadFile(dir, "image_embeds-f32.npy")
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := weights.WriteNPY(&b, x.Reshape(append([]int{1}, x.Shape...)...), weights.F32); err != nil {
		return err
	}
	if err := v.judge("image_embeds-f32.npy", float64(bytes.Compare(b.Bytes(), npy)), 0); err != nil {
		return err
	}
	return verifyRequests(dir, x, equal)
}

// verifyRequests compares the tensors in request bodies, theirs and ours.
func verifyRequests(dir fs.FS, x tensor.Tensor, equal func(string, []byte, weights.DType) error) error {
	var chat struct {
		Messages []struct {
			Content []struct{ Type, Data string }
		}
	}
	var completions struct {
		Embeds string `json:"prompt_embeds"`
	}
	if err := readJSON(dir, "vllm-chat-request.json", &chat); err != nil {
		return err
	}
	if err := readJSON(dir, "vllm-completions-request.json", &completions); err != nil {
		return err
	}
	sent := map[string]string{"vllm-completions-request.json": completions.Embeds}
	for _, m := range chat.Messages {
		for _, c := range m.Content {
			if c.Type == "prompt_embeds" {
				sent["vllm-chat-request.json"] = c.Data
			}
		}
	}
	l := feed.Latents{Data: x.Reshape(append([]int{1}, x.Shape...)...), Kind: feed.SoftTokens}
	ours, err := feed.ChatPart(l, feed.Target{}, weights.BF16)
	if err != nil {
		return err
	}
	var part struct{ Data string }
	if err := json.Unmarshal(ours, &part); err != nil {
		return err
	}
	sent["prompt_embeds part"] = part.Data
	for stage, text := range sent {
		data, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return fmt.Errorf("pipeline: %s: %w", stage, err)
		}
		raw, err := torchTensor(stage+".pt", data)
		if err != nil {
			return err
		}
		if err := equal(stage, raw.Data, weights.BF16); err != nil {
			return err
		}
	}
	return nil
}

// onlyTensor reads the one tensor of a weight file.
func onlyTensor(dir fs.FS, name string) (weights.Raw, error) {
	data, err := fs.ReadFile(dir, name)
	if err != nil {
		return weights.Raw{}, err
	}
	return torchTensor(name, data)
}

func torchTensor(name string, data []byte) (weights.Raw, error) {
	src, err := weights.Parse(name, data)
	if err != nil {
		return weights.Raw{}, err
	}
	for n := range src.Names() {
		return src.Load(n)
	}
	return weights.Raw{}, fmt.Errorf("pipeline: %s holds no tensor", name)
}

func parseWeights(dir fs.FS, name string) (weights.Source, error) {
	data, err := fs.ReadFile(dir, name)
	if err != nil {
		return nil, err
	}
	return weights.Parse(name, data)
}

func readJSON(dir fs.FS, name string, v any) error {
	data, err := fs.ReadFile(dir, name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("pipeline: %s: %w", name, err)
	}
	return nil
}
