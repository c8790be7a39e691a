package pipeline_test

import (
	"context"
	"fmt"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/models"
	"github.com/mmserve/mmserve/pipeline"
)

// The built-in model turns a drawing into latents, N×D, and one vector of its shared space.
// pipeline.Open does the same for a directory.
func ExampleOpenFS() {
	ctx := context.Background()
	model, err := pipeline.OpenFS(ctx, models.Default(), pipeline.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	file, closer, err := media.File("../testdata/samples/emoji-1f475.png")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer closer.Close()
	item := pipeline.Item{Parts: []pipeline.Part{{Input: file}}}
	enc, err := model.Encode(ctx, item, pipeline.EncodeOptions{Outputs: []string{pipeline.OutputLatents, pipeline.OutputPooled}})
	if err != nil {
		fmt.Println(err)
		return
	}
	info := model.Info()
	fmt.Println(enc.Plan.Modality, len(enc.Latents.Shape) == 2 && enc.Latents.Dim(0) == info.Latents && enc.Latents.Dim(1) == info.LatentDim)
	// Output: image true
}

// Predict answers with every task of the model that fits the medium.
func ExampleModel() {
	ctx := context.Background()
	model, err := pipeline.OpenFS(ctx, models.Default(), pipeline.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	item := pipeline.Item{Parts: []pipeline.Part{pipeline.TextPart("play some music from the sixties")}}
	p, err := model.Predict(ctx, item, pipeline.PredictOptions{Top: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, head := range p.Heads {
		if head.Task == "snips" {
			fmt.Println(head.Classes[0].Label)
		}
	}
	// Output: PlayMusic
}

// Latents can be kept and asked later, without the medium that they are of.
func ExampleLatentDecoder() {
	ctx := context.Background()
	model, err := pipeline.OpenFS(ctx, models.Default(), pipeline.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	enc, err := model.Encode(ctx, pipeline.Item{Parts: []pipeline.Part{pipeline.TextPart("play some music from the sixties")}}, pipeline.EncodeOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	decoder := model.(pipeline.LatentDecoder) // Info.Decodes says what it can be asked
	d, err := decoder.Decode(ctx, pipeline.Item{Latents: enc.Latents}, pipeline.DecodeOptions{Outputs: []string{"snips"}, Top: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(d.Prediction.Heads[0].Classes[0].Label)
	// Output: PlayMusic
}
