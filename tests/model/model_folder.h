// Model folders made by tests: a writer of safetensors files, and small models
// of random weights.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/tensor.h"
#include "tests/support/temporary_folder.h"

namespace engram {

// What a test writes into a file: everything may be wrong on purpose.
struct RawTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

inline RawTensor FloatTensor(std::vector<int64_t> shape,
                             const std::vector<float>& values) {
  std::string bytes(values.size() * sizeof(float), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return {"F32", std::move(shape), std::move(bytes)};
}

// The same tensor with its values in another type, "BF16" or "F16".
inline RawTensor Narrowed(const RawTensor& tensor, const std::string& dtype) {
  std::string bytes;
  for (size_t i = 0; i < tensor.bytes.size(); i += sizeof(float)) {
    float value;
    std::memcpy(&value, tensor.bytes.data() + i, sizeof(value));
    const uint16_t narrow =
        dtype == "BF16" ? NarrowToBFloat16(value) : NarrowToFloat16(value);
    bytes.append(reinterpret_cast<const char*>(&narrow), sizeof(narrow));
  }
  return {dtype, tensor.shape, std::move(bytes)};
}

// A file of this header text and data, with the true length of the header.
inline std::string SafetensorsFile(const std::string& header,
                                   const std::string& data) {
  const uint64_t header_bytes = header.size();
  std::string file(sizeof(header_bytes), '\0');
  std::memcpy(file.data(), &header_bytes, sizeof(header_bytes));
  return absl::StrCat(file, header, data);
}

inline std::string SafetensorsFile(
    const std::map<std::string, RawTensor>& tensors) {
  std::vector<std::string> entries = {R"("__metadata__":{"format":"pt"})"};
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    entries.push_back(absl::StrCat(
        "\"", name, "\":{\"dtype\":\"", tensor.dtype, "\",\"shape\":[",
        absl::StrJoin(tensor.shape, ","), "],\"data_offsets\":[", data.size(),
        ",", data.size() + tensor.bytes.size(), "]}"));
    data += tensor.bytes;
  }
  return SafetensorsFile(absl::StrCat("{", absl::StrJoin(entries, ","), "}"),
                         data);
}

// Tensors whose elements are normally distributed; the same on every run.
class RandomTensors {
 public:
  RawTensor operator()(std::vector<int64_t> shape, float center, float spread) {
    int64_t count = 1;
    for (int64_t size : shape) count *= size;
    std::normal_distribution<float> normal(center, spread);
    std::vector<float> values(count);
    for (float& value : values) value = normal(random_);
    return FloatTensor(std::move(shape), values);
  }

 private:
  std::mt19937 random_{20231201};
};

struct RandomMambaShape {
  int64_t layers = 2;
  int64_t d_model = 19;
  int64_t d_inner = 38;
  int64_t d_state = 5;
  int64_t d_conv = 4;
  int64_t dt_rank = 3;
  int64_t vocab = 40;
};

inline std::string RandomMambaConfig(const RandomMambaShape& shape) {
  return absl::StrCat(
      "{\"model_type\":\"mamba\",\"vocab_size\":", shape.vocab,
      ",\"hidden_size\":", shape.d_model,
      ",\"num_hidden_layers\":", shape.layers,
      ",\"state_size\":", shape.d_state, ",\"conv_kernel\":", shape.d_conv,
      ",\"time_step_rank\":", shape.dt_rank, ",\"use_bias\":false}");
}

// Tensors whose values make every part of the model matter.
inline std::map<std::string, RawTensor> RandomMambaTensors(
    const RandomMambaShape& shape) {
  RandomTensors tensor;
  const auto [layers, d_model, d_inner, d_state, d_conv, dt_rank, vocab] =
      shape;
  std::map<std::string, RawTensor> tensors;
  tensors["backbone.embeddings.weight"] = tensor({vocab, d_model}, 0, 1);
  tensors["backbone.norm_f.weight"] = tensor({d_model}, 1, 0.3f);
  for (int64_t i = 0; i < layers; ++i) {
    const std::string layer = absl::StrCat("backbone.layers.", i, ".");
    const std::string mixer = layer + "mixer.";
    tensors[layer + "norm.weight"] = tensor({d_model}, 1, 0.3f);
    tensors[mixer + "in_proj.weight"] = tensor({2 * d_inner, d_model}, 0, 0.3f);
    tensors[mixer + "conv1d.weight"] = tensor({d_inner, 1, d_conv}, 0, 0.5f);
    tensors[mixer + "conv1d.bias"] = tensor({d_inner}, 0, 0.3f);
    tensors[mixer + "x_proj.weight"] =
        tensor({dt_rank + 2 * d_state, d_inner}, 0, 0.3f);
    tensors[mixer + "dt_proj.weight"] = tensor({d_inner, dt_rank}, 0, 0.5f);
    tensors[mixer + "dt_proj.bias"] = tensor({d_inner}, -2, 1);
    tensors[mixer + "A_log"] = tensor({d_inner, d_state}, 0, 1);
    tensors[mixer + "D"] = tensor({d_inner}, 1, 0.5f);
    tensors[mixer + "out_proj.weight"] = tensor({d_model, d_inner}, 0, 0.3f);
  }
  return tensors;
}

inline void WriteRandomMamba(const TemporaryFolder& folder,
                             const RandomMambaShape& shape) {
  folder.Write("config.json", RandomMambaConfig(shape));
  folder.Write("model.safetensors", SafetensorsFile(RandomMambaTensors(shape)));
}

struct RandomMamba2Shape {
  int64_t layers = 2;
  int64_t d_model = 19;
  int64_t heads = 4;
  int64_t groups = 2;
  int64_t head_dim = 17;
  int64_t d_state = 3;
  int64_t d_conv = 4;
  int64_t vocab = 40;

  int64_t d_inner() const { return heads * head_dim; }
  int64_t convolved() const { return d_inner() + 2 * groups * d_state; }
};

inline std::string RandomMamba2Config(const RandomMamba2Shape& shape) {
  return absl::StrCat(
      "{\"model_type\":\"mamba2\",\"vocab_size\":", shape.vocab,
      ",\"hidden_size\":", shape.d_model,
      ",\"num_hidden_layers\":", shape.layers,
      ",\"state_size\":", shape.d_state, ",\"conv_kernel\":", shape.d_conv,
      ",\"num_heads\":", shape.heads, ",\"head_dim\":", shape.head_dim,
      ",\"n_groups\":", shape.groups,
      ",\"use_bias\":false,\"tie_word_embeddings\":true}");
}

inline std::map<std::string, RawTensor> RandomMamba2Tensors(
    const RandomMamba2Shape& shape) {
  RandomTensors tensor;
  const int64_t d_model = shape.d_model;
  const int64_t d_inner = shape.d_inner();
  std::map<std::string, RawTensor> tensors;
  tensors["backbone.embeddings.weight"] = tensor({shape.vocab, d_model}, 0, 1);
  tensors["backbone.norm_f.weight"] = tensor({d_model}, 1, 0.3f);
  for (int64_t i = 0; i < shape.layers; ++i) {
    const std::string layer = absl::StrCat("backbone.layers.", i, ".");
    const std::string mixer = layer + "mixer.";
    tensors[layer + "norm.weight"] = tensor({d_model}, 1, 0.3f);
    tensors[mixer + "in_proj.weight"] =
        tensor({d_inner + shape.convolved() + shape.heads, d_model}, 0, 0.3f);
    tensors[mixer + "conv1d.weight"] =
        tensor({shape.convolved(), 1, shape.d_conv}, 0, 0.5f);
    tensors[mixer + "conv1d.bias"] = tensor({shape.convolved()}, 0, 0.3f);
    tensors[mixer + "dt_bias"] = tensor({shape.heads}, -2, 1);
    tensors[mixer + "A_log"] = tensor({shape.heads}, 0, 1);
    tensors[mixer + "D"] = tensor({shape.heads}, 1, 0.5f);
    tensors[mixer + "norm.weight"] = tensor({d_inner}, 1, 0.3f);
    tensors[mixer + "out_proj.weight"] = tensor({d_model, d_inner}, 0, 0.3f);
  }
  return tensors;
}

inline void WriteRandomMamba2(const TemporaryFolder& folder,
                              const RandomMamba2Shape& shape) {
  folder.Write("config.json", RandomMamba2Config(shape));
  folder.Write("model.safetensors",
               SafetensorsFile(RandomMamba2Tensors(shape)));
}

// A hybrid of Mamba-2 and attention with all that state-spaces' layout may
// have: shared heads, rotation, a convolution over q, k and v, biases, MLPs.
struct RandomHybridShape {
  int64_t layers = 3;
  int64_t d_model = 12;
  int64_t ssm_heads = 3;
  int64_t ssm_head_dim = 8;
  int64_t d_state = 3;
  int64_t attention_layer = 1;
  int64_t heads = 4;
  int64_t kv_heads = 2;
  int64_t head_dim = 6;
  int64_t d_conv = 3;
  int64_t mlp_width = 128;
  int64_t vocab = 40;

  int64_t qkv() const { return (heads + 2 * kv_heads) * head_dim; }
};

inline std::string RandomHybridConfig(const RandomHybridShape& shape) {
  return absl::StrCat(
      "{\"d_model\":", shape.d_model, ",\"n_layer\":", shape.layers,
      ",\"vocab_size\":", shape.vocab, ",\"d_intermediate\":100",
      ",\"ssm_cfg\":{\"layer\":\"Mamba2\",\"d_state\":", shape.d_state,
      ",\"headdim\":", shape.ssm_head_dim, "},\"attn_layer_idx\":[",
      shape.attention_layer,
      "],\"attn_cfg\":{\"causal\":true,\"num_heads\":", shape.heads,
      ",\"num_heads_kv\":", shape.kv_heads, ",\"head_dim\":", shape.head_dim,
      ",\"d_conv\":", shape.d_conv,
      ",\"rotary_emb_dim\":4,\"qkv_proj_bias\":true}}");
}

inline std::map<std::string, RawTensor> RandomHybridTensors(
    const RandomHybridShape& shape) {
  RandomTensors tensor;
  const int64_t d_model = shape.d_model;
  RandomMamba2Shape ssm;
  ssm.layers = shape.layers;
  ssm.d_model = d_model;
  ssm.heads = shape.ssm_heads;
  ssm.groups = 1;
  ssm.head_dim = shape.ssm_head_dim;
  ssm.d_state = shape.d_state;
  ssm.vocab = shape.vocab;
  std::map<std::string, RawTensor> tensors = RandomMamba2Tensors(ssm);
  const std::string attention =
      absl::StrCat("backbone.layers.", shape.attention_layer, ".mixer.");
  std::erase_if(tensors, [&attention](const auto& entry) {
    return entry.first.starts_with(attention);
  });
  tensors[attention + "in_proj.weight"] =
      tensor({shape.qkv(), d_model}, 0, 0.4f);
  tensors[attention + "in_proj.bias"] = tensor({shape.qkv()}, 0, 0.3f);
  tensors[attention + "conv1d.weight"] =
      tensor({shape.qkv(), 1, shape.d_conv}, 0, 0.5f);
  tensors[attention + "conv1d.bias"] = tensor({shape.qkv()}, 0, 0.3f);
  tensors[attention + "out_proj.weight"] =
      tensor({d_model, shape.heads * shape.head_dim}, 0, 0.4f);
  tensors[attention + "out_proj.bias"] = tensor({d_model}, 0, 0.3f);
  for (int64_t i = 0; i < shape.layers; ++i) {
    const std::string layer = absl::StrCat("backbone.layers.", i, ".");
    tensors[layer + "norm2.weight"] = tensor({d_model}, 1, 0.3f);
    tensors[layer + "mlp.fc1.weight"] =
        tensor({2 * shape.mlp_width, d_model}, 0, 0.3f);
    tensors[layer + "mlp.fc2.weight"] =
        tensor({d_model, shape.mlp_width}, 0, 0.1f);
  }
  return tensors;
}

inline void WriteRandomHybrid(const TemporaryFolder& folder,
                              const RandomHybridShape& shape) {
  folder.Write("config.json", RandomHybridConfig(shape));
  folder.Write("model.safetensors",
               SafetensorsFile(RandomHybridTensors(shape)));
}

// H3 and the baselines in its skeleton.
struct RandomH3Shape {
  std::string family = "h3";
  int64_t layers = 3;
  int64_t d_model = 12;
  int64_t mlp_width = 20;                 // 0: none
  std::vector<int64_t> attention_layers;  // of "attention" all
  int64_t heads = 3;
  int64_t rotary_dim = 0;
  int64_t positions = 0;
  int64_t taps = 9;
  int64_t pairs = 3;
  int64_t vocab = 40;

  bool IsAttention(int64_t layer) const {
    return family == "attention" ||
           std::count(attention_layers.begin(), attention_layers.end(), layer) >
               0;
  }
};

inline std::string RandomH3Config(const RandomH3Shape& shape) {
  return absl::StrCat(
      "{\"model_type\":\"", shape.family, "\",\"vocab_size\":", shape.vocab,
      ",\"hidden_size\":", shape.d_model,
      ",\"num_hidden_layers\":", shape.layers, ",\"n_inner\":", shape.mlp_width,
      ",\"attn_layer_idx\":[", absl::StrJoin(shape.attention_layers, ","),
      "],\"num_attention_heads\":", shape.heads,
      ",\"rotary_emb_dim\":", shape.rotary_dim,
      ",\"max_position_embeddings\":", shape.positions, "}");
}

// Adds the tensors of one layer's mixer, all of which matter; the dynamics
// forget slowly enough that early tokens do too.
inline void AddRandomMixer(const RandomH3Shape& shape, int64_t layer,
                           RandomTensors* tensor,
                           std::map<std::string, RawTensor>* tensors) {
  const int64_t d_model = shape.d_model;
  const std::string mixer = absl::StrCat("backbone.layers.", layer, ".mixer.");
  const auto add = [&](const std::string& name, std::vector<int64_t> dimensions,
                       float center, float spread) {
    (*tensors)[mixer + name] = (*tensor)(std::move(dimensions), center, spread);
  };
  const auto add_linear = [&](const std::string& name, int64_t outputs) {
    add(name + ".weight", {outputs, d_model}, 0, 0.4f);
    add(name + ".bias", {outputs}, 0, 0.3f);
  };
  if (shape.IsAttention(layer)) {
    add_linear("Wqkv", 3 * d_model);
    return add_linear("out_proj", d_model);
  }
  const bool is_h3 = shape.family == "h3";
  const int64_t a_rows = is_h3 ? d_model : 1;
  const std::string kernel = "kernel.kernel.";
  add("D", {d_model}, 0, 0.5f);
  add(kernel + "C", {1, d_model, shape.pairs, 2}, 0, 1);
  add(kernel + "log_dt", {d_model}, -3, 1);
  add(kernel + "inv_A_real", {a_rows, shape.pairs}, -0.7f, 0.3f);
  add(kernel + "A_imag", {a_rows, shape.pairs}, 0, 3);
  add_linear("output_linear", d_model);
  if (!is_h3) return;
  add(kernel + "B", {d_model, shape.pairs, 2}, 1, 0.5f);
  for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
    add_linear(name, d_model);
  }
  add("ssm_k_D", {d_model}, 0, 0.5f);
  add("ssm_k_kernel.kernel.B", {d_model, shape.taps}, 0, 0.4f);
  add("ssm_k_kernel.kernel.C", {1, d_model, shape.taps}, 0, 0.4f);
}

inline std::map<std::string, RawTensor> RandomH3Tensors(
    const RandomH3Shape& shape) {
  RandomTensors tensor;
  const int64_t d_model = shape.d_model;
  std::map<std::string, RawTensor> tensors;
  const auto add_norm = [&](const std::string& name) {
    tensors[name + ".weight"] = tensor({d_model}, 1, 0.3f);
    tensors[name + ".bias"] = tensor({d_model}, 0, 0.3f);
  };
  const auto add_linear = [&](const std::string& name, int64_t outputs,
                              int64_t inputs) {
    tensors[name + ".weight"] = tensor({outputs, inputs}, 0, 0.4f);
    tensors[name + ".bias"] = tensor({outputs}, 0, 0.3f);
  };
  const std::string embeddings = "backbone.embeddings.";
  tensors[embeddings + "word_embeddings.weight"] =
      tensor({shape.vocab, d_model}, 0, 1);
  if (shape.positions > 0) {
    tensors[embeddings + "position_embeddings.weight"] =
        tensor({shape.positions, d_model}, 0, 1);
  }
  add_norm("backbone.ln_f");
  for (int64_t i = 0; i < shape.layers; ++i) {
    const std::string layer = absl::StrCat("backbone.layers.", i, ".");
    add_norm(layer + "norm1");
    AddRandomMixer(shape, i, &tensor, &tensors);
    if (shape.mlp_width == 0) continue;
    add_norm(layer + "norm2");
    add_linear(layer + "mlp.fc1", shape.mlp_width, d_model);
    add_linear(layer + "mlp.fc2", d_model, shape.mlp_width);
  }
  return tensors;
}

inline void WriteRandomH3(const TemporaryFolder& folder,
                          const RandomH3Shape& shape) {
  folder.Write("config.json", RandomH3Config(shape));
  folder.Write("model.safetensors", SafetensorsFile(RandomH3Tensors(shape)));
}

}  // namespace engram
