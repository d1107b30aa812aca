// One way to run every operator: the CPU's kernel works on CPU tensors that share the card's memory.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <optional>
#include <utility>
#include <vector>

#include "device.h"

namespace card {

using at::Tensor;
using c10::IValue;
using c10::Storage;
using Stack = torch::jit::Stack;

inline bool on_card(const Tensor& tensor) { return tensor.defined() && tensor.device().type() == TYPE; }

/// As CUDA says it. where: for the operator's name.
template <typename... Where>
void refuse_two_devices(c10::Device one, c10::Device other, const Where&... where) {
  TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, ", one, " and ", other, "!",
              where...);
}

/// A tensor with the shape and type of another, on this memory.
inline Tensor twin(const Tensor& tensor, Storage memory, c10::DispatchKey key) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(std::move(memory), c10::DispatchKeySet(key), tensor.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  made._set_conj(tensor.is_conj());
  made._set_neg(tensor.is_neg());
  return made;
}

/// The CPU's views of the card's memory while one operator runs: two tensors that share memory share it here too.
class Views {
  struct Pair {
    Storage ours, view;
  };
  std::vector<Pair> pairs_;

 public:
  Tensor cpu(const Tensor& tensor) { return twin(tensor, view_of(tensor.storage()), c10::DispatchKey::CPU); }

  /// What a kernel made, as the card's: a view of what was there, or new memory that is taken over.
  Tensor card(const Tensor& made, c10::DeviceIndex index) {
    if (!made.defined() || !made.is_cpu()) return made;
    auto* memory = made.storage().unsafeGetStorageImpl();
    for (const auto& [ours, view] : pairs_)
      if (view.unsafeGetStorageImpl() == memory) return twin(made, ours, c10::DispatchKey::PrivateUse1);
    const size_t bytes = memory->nbytes();
    c10::DataPtr data(memory->mutable_data(), new Storage(made.storage()), &forget, c10::Device(c10::kCPU));
    return twin(made, storage(adopt(std::move(data), bytes, index), bytes), c10::DispatchKey::PrivateUse1);
  }

  /// Memory that a kernel resized is resized on the card too.
  void settle() {
    for (auto& [ours, view] : pairs_) {
      auto *target = ours.unsafeGetStorageImpl(), *source = view.unsafeGetStorageImpl();
      if (source->data() == target->data() && source->nbytes() == target->nbytes()) continue;
      const size_t bytes = source->nbytes();
      auto data = source->set_data_ptr(c10::DataPtr(source->mutable_data(), c10::Device(c10::kCPU)));
      target->set_data_ptr_noswap(adopt(std::move(data), bytes, target->device().index()));
      target->set_nbytes(bytes);
    }
  }

 private:
  static void forget(void* holder) { delete static_cast<Storage*>(holder); }

  Storage view_of(const Storage& ours) {
    for (const auto& pair : pairs_)
      if (pair.ours.unsafeGetStorageImpl() == ours.unsafeGetStorageImpl()) return pair.view;
    auto* memory = ours.unsafeGetStorageImpl();
    Storage view = c10::make_intrusive<c10::StorageImpl>(
        c10::StorageImpl::use_byte_size_t(), memory->nbytes(),
        c10::DataPtr(memory->mutable_data(), c10::Device(c10::kCPU)), c10::GetAllocator(c10::kCPU), true);
    pairs_.push_back({ours, view});
    return view;
  }
};

/// One call of an operator whose arguments lie on a stack. schema: of the operator that was called; `run` may take another.
class Call {
  const c10::FunctionSchema& schema_;
  Stack& stack_;
  std::vector<IValue> given_;
  Views views_;
  std::vector<std::pair<Tensor, Tensor>> written_;  // (the card's, its view)
  std::optional<c10::Device> card_, asked_;
  bool beside_ = false;  // a tensor of the CPU that CUDA would not take beside its own
  bool leaves_ = false;  // the result was asked for on another device

 public:
  Call(const c10::FunctionSchema& schema, Stack& stack)
      : schema_(schema), stack_(stack), given_(stack.end() - static_cast<int64_t>(schema.arguments().size()), stack.end()) {
    const size_t first = stack_.size() - given_.size();
    for (size_t i = 0; i < given_.size(); ++i) stack_[first + i] = argument(given_[i], schema_.arguments()[i]);
    for (size_t i = 0; i < given_.size(); ++i) random(stack_[first + i], schema_.arguments()[i]);
    if (card_ && beside_)
      refuse_two_devices(*card_, c10::kCPU, " (when checking argument in method ", schema_.operator_name(), ")");
  }

  void run(const c10::OperatorHandle& kernel) {
    {
      at::AutoDispatchBelowADInplaceOrView below;
      kernel.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack_);
    }
    views_.settle();
    for (const auto& [ours, view] : written_)
      if (ours.sizes() != view.sizes() || ours.strides() != view.strides())
        ours.unsafeGetTensorImpl()->set_sizes_and_strides(view.sizes(), view.strides(), view.storage_offset());
    const size_t first = stack_.size() - schema_.returns().size();
    for (size_t i = 0; i < schema_.returns().size(); ++i) result(stack_[first + i], schema_.returns()[i]);
  }

 private:
  IValue argument(const IValue& value, const c10::Argument& described) {
    const bool written = described.alias_info() && described.alias_info()->isWrite();
    if (value.isTensor()) return tensor(value.toTensor(), written, false);
    if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& each : value.toTensorVector()) list.push_back(tensor(each, written, false));
      return list;
    }
    if (value.isOptionalTensorList()) {  // indices, which CUDA takes from the CPU
      c10::List<std::optional<Tensor>> list;
      for (const auto& each : value.toOptionalTensorVector())
        list.push_back(each ? std::optional<Tensor>(tensor(*each, written, true)) : std::nullopt);
      return list;
    }
    if (value.isDevice()) {
      leaves_ = value.toDevice().type() != TYPE;
      if (leaves_) return value;
      asked_ = place_of(value.toDevice().index());
      return c10::Device(c10::kCPU);
    }
    return value;
  }

  Tensor tensor(const Tensor& value, bool written, bool index) {
    if (on_card(value)) {
      if (!card_) card_ = value.device();
      if (*card_ != value.device()) refuse_two_devices(*card_, value.device());
      Tensor view = views_.cpu(value);
      if (written) written_.emplace_back(value, view);
      return view;
    }
    if (value.defined() && value.is_cpu() && !index && (value.dim() > 0 || written)) beside_ = true;
    return value;
  }

  /// The generator below a card's; the card's usual one where none is given.
  void random(IValue& value, const c10::Argument& described) {
    static const auto optional = c10::OptionalType::create(c10::GeneratorType::get());
    if (value.isNone() && *described.type() == *optional) {
      value = Generator::usual(place()).get<Generator>()->cpu;
    } else if (value.isGenerator()) {
      const auto given = value.toGenerator();
      TORCH_CHECK(!card_ || given.device().type() == TYPE, "Expected a 'npu' device type for generator but found '",
                  given.device().type(), "'");
      if (given.device().type() == TYPE) value = given.get<Generator>()->cpu;
    }
  }

  c10::DeviceIndex place() const { return card_ ? card_->index() : asked_ ? asked_->index() : current; }

  void result(IValue& value, const c10::Argument& described) {
    if (described.alias_info() && described.alias_info()->isWrite()) {
      for (size_t i = 0; i < given_.size(); ++i) {
        const auto* alias = schema_.arguments()[i].alias_info();
        if (alias && *alias == *described.alias_info()) value = given_[i];
      }
    } else if (leaves_) {
      return;
    } else if (value.isTensor()) {
      value = views_.card(value.toTensor(), place());
    } else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& each : value.toTensorVector()) list.push_back(views_.card(each, place()));
      value = list;
    }
  }
};

}  // namespace card
