// snippets words the current call for other programs.
export function snippets(model, input, origin, modality) {
  const name = input?.name || "hello.txt", type = input?.type || "text/plain";
  const key = ' \\\n  -H "Authorization: Bearer $MMSERVE_KEY"';
  const url = `${origin}/v1/encode?model=${encodeURIComponent(model)}&output=latents`;
  return {
    curl: `curl --data-binary @'${name.replaceAll("'", "'\\''")}' -H 'Content-Type: ${type}'${key} \\\n  '${url}'`,
    Go: `c := client.Client{URL: ${JSON.stringify(origin)}, Key: os.Getenv("MMSERVE_KEY")}
data, err := os.ReadFile(${JSON.stringify(name)})
…
doc, err := c.Encode(ctx, client.Request{
	Model:  ${JSON.stringify(model)},
	Inputs: []client.Item{client.Media(${JSON.stringify(modality || "text")}, data)},
	Output: []string{"latents"},
})
…
values, err := doc.Data[0].Latents.Float32s() // doc.Data[0].Latents.Shape`,
    Python: `import json, os, urllib.request
req = urllib.request.Request(${JSON.stringify(url + "&encoding=float")},
    data=open(${JSON.stringify(name)}, "rb").read(),
    headers={"Content-Type": ${JSON.stringify(type)},
             "Authorization": "Bearer " + os.environ.get("MMSERVE_KEY", "")})
item = json.load(urllib.request.urlopen(req))["data"][0]
print(item["latents"]["shape"])`,
    vLLM: `# soft tokens as a content part of vLLM's chat (a model whose width is the target's)
curl --data-binary @'${name.replaceAll("'", "'\\''")}' -H 'Content-Type: ${type}'${key} \\
  '${origin}/v1/encode?model=${encodeURIComponent(model)}&output=soft_tokens&format=vllm' > part.json`,
  };
}
