package pipeline

// nativeArch is the architecture of a model.json that names none.
const nativeArch = "mmserve"
