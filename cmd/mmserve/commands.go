package main

// defaultCommand runs when no command is named.
const defaultCommand = "serve"

// commands lists every verb, in the order help shows them. One file each.
func commands() []command {
	return []command{
		{"predict", "[--model DIR] [--top 5] [--json] INPUT… | --text T | --latents FILE", "run a model's task on media and print the answer; - is standard input", predict},
		{"encode", "[--model DIR] [--output latents] [--format json] [-o FILE] INPUT…", "turn media into latents, a pooled vector, the byte array, soft tokens or a language model server's payload", encode},
		{"caption", "[--model DIR] [--json] FILE…", "say in words what a file shows", caption},
		{"generate", "[--model DIR] [--image FILE]… --prompt TEXT [--max-tokens 64] [--temperature 0] [--json]", "continue a prompt about media, as the text comes", generate},
		{"search", "[--model DIR] [-k 5] [--only MEDIA] [--index FILE] [--json] DIR QUERY", "find the files of a directory that are most like a file or words", search},
		{"plan", "[--model DIR] [--json] [--decode] FILE…", "say what files hold and would cost, from their headers", plan},
		{"preprocess", "--config preprocessor_config.json IMAGE -o out.npy", "write exactly the pixels a model would see", preprocess},
		{"modalities", "[--json]", "list the media that are compiled in, with their options", modalities},
		{"verify", "[--kernels SET] [--plain] [--against f32] DIR…", "compare a model with its reference outputs, stage by stage, or an arithmetic with another", verify},
		{"bench", "[--model DIR | --config FILE --random] [--batch 1] [--seconds 10] [--json] | --targets all", "measure a model's forward pass", bench},
		{"serve", "[--addr 127.0.0.1:8080] [--models NAME=DIR] [--config FILE]", "serve models over HTTP", serve},
		{"load", "[--url URL] [--rates 0.5,1,2,5] [--seconds 10] [--hostile 0.01] [FILE…]", "press a server over HTTP and print goodput, latency and what was shed", load},
		{"config", "[flags of serve]", "print the server's effective settings and where each came from", config},
		{"eval", "[--model DIR] [--against f32] [--json] [--split S] [--robustness] [--examples N] DATA_DIR", "measure a model on labelled data", eval},
		{"import", "IN.bin|IN.pt OUT.safetensors", "convert a PyTorch weight file without running any of it", importWeights},
		{"inspect", "[--json] FILE|DIR | --schema", "list tensors, shapes, types and what a model is made of", inspect},
		{"version", "[--sbom]", "print the version, or what the program is built of", version},
	}
}
