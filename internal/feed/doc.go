// Package feed puts latents into the shapes that language model servers take.
//
//	consumer                         function      payload
//	vLLM, chat with text             ChatPart      {"type":"prompt_embeds","data":"<base64 .pt>"}
//	vLLM, completions                Completion    {"prompt_embeds":"<base64 .pt>"}, the whole prompt
//	vLLM, multimodal model           ImagePart     {"type":"image_embeds","image_embeds":…}
//	SGLang /generate                 InputEmbeds   {"input_embeds":[[…],…]}, the whole prompt
//	llama.cpp, llama_batch.embd      LlamaCpp      float32, little-endian, row by row
//	transformers, placeholder text   Placeholders  <fake_token_around_image><image>×64…
//
// Latents are items×latents×width. Only soft tokens, whose width is the language model's
// hidden size, can stand in its input sequence; latents that are keys and values of
// cross-attention layers are refused, and so is a width that is not the target's.
//
// To add a consumer: a function that starts with check.
package feed
