// Package pipeline is where a medium meets a network: a model directory with its adapters,
// network and heads, answering requests.
//
// A directory is opened by its architecture's Recipe (Register adds one):
//
//	m, err := pipeline.OpenFS(ctx, models.Default(), pipeline.Options{}) // the built-in model, or
//	m, err := pipeline.Open(ctx, "models/vision-perceiver-fourier", pipeline.Options{})
//	out, err := m.Predict(ctx, pipeline.Item{Parts: []pipeline.Part{part}}, pipeline.PredictOptions{Top: 5})
//
// Two kinds of directory load through the same door. Published ones hold config.json as on
// the Hugging Face Hub; native ones hold model.json, a composition written down
// (docs/model-json.md). Weights come from model.safetensors, a sharded index, or
// pytorch_model.bin through the importer.
//
// Shapes: a byte array is M×C, latents N×D, queries O×E, outputs O×F, soft tokens n×W.
package pipeline
