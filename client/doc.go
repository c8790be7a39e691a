// Package client calls an mmserve server. It imports nothing but the standard library.
//
//	c := client.Client{URL: "http://127.0.0.1:8080"}
//	doc, err := c.Encode(ctx, client.Request{Inputs: []client.Item{client.Media("image", jpeg)}})
//	values, err := doc.Data[0].Latents.Float32s() // N×D, row by row
//
// A refusal is an *Error with the server's code. Items of a batch fail alone: look at each
// Result's Error; a batch of which every item fails is an *Error. A saturated server (503) or a
// used-up quota (429) is asked again after the time it names, as often as Retries says.
package client
