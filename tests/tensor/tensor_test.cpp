#include "tensor/tensor.h"

#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

Tensor counting(const Shape& shape) {
    std::vector<float> x(static_cast<std::size_t>(numel(shape)));
    std::iota(x.begin(), x.end(), 0.0F);
    return Tensor::from(x, shape);
}

TEST(Shapes, NumelAndTextAndTheirFaults) {
    EXPECT_EQ(numel({}), 1);
    EXPECT_EQ(numel({3, 0, 5}), 0);
    EXPECT_EQ(numel({2, 3, 7}), 42);
    EXPECT_EQ(to_string(Shape{2, 3}), "[2,3]");
    EXPECT_EQ(to_string(Shape{}), "[]");
    EXPECT_THROW(numel({2, -1}), Error);
    EXPECT_THROW(numel({std::int64_t{1} << 40, std::int64_t{1} << 40}), Error);
}

TEST(Tensors, AnUndefinedOneSaysSoAndAnEmptyOneIsDefined) {
    EXPECT_FALSE(Tensor().defined());
    const Tensor none = Tensor::empty({0, 7}, DType::bf16);
    EXPECT_TRUE(none.defined());
    EXPECT_EQ(none.numel(), 0);
    EXPECT_EQ(none.nbytes(), 0U);
    EXPECT_EQ(none.clone().shape(), (Shape{0, 7}));
    EXPECT_EQ(none.rows(0, 0).numel(), 0);
}

TEST(Tensors, FromAndToVectorKeepValuesShapeAndType) {
    const Tensor x = Tensor::from(std::vector<std::int32_t>{4, 5, 6, 7, 8, 9}, {2, 3});
    EXPECT_EQ(x.dtype(), DType::i32);
    EXPECT_EQ(x.dim(0), 2);
    EXPECT_EQ(x.dim(-1), 3);
    EXPECT_EQ(x.nbytes(), 24U);
    EXPECT_EQ(x.to_vector<std::int32_t>(), (std::vector<std::int32_t>{4, 5, 6, 7, 8, 9}));
    EXPECT_EQ(Tensor::from(std::vector<float>{1, 2}).shape(), Shape{2});
    EXPECT_THROW(Tensor::from(std::vector<float>{1, 2}, {3}), Error);
}

TEST(Tensors, ReadingAsAnotherTypeIsAnErrorThatNamesBoth) {
    const Tensor x = Tensor::zeros({2}, DType::bf16);
    try {
        (void)x.data<float>();
        FAIL() << "no error";
    } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find("bf16"), std::string::npos);
        EXPECT_NE(std::string(e.what()).find("f32"), std::string::npos);
    }
}

TEST(Tensors, ZerosAndFullFillEveryType) {
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::i32}) {
        EXPECT_EQ(values(Tensor::zeros({3}, dtype)), (std::vector<double>{0, 0, 0}));
        EXPECT_EQ(values(Tensor::full({2}, dtype, -3.0)), (std::vector<double>{-3, -3}));
        EXPECT_EQ(Tensor::full({1, 1}, dtype, 7.0).item(), 7.0);
    }
    EXPECT_THROW((void)Tensor::zeros({2}, DType::f32).item(), Error);
}

TEST(Tensors, ViewsAndRowsShareStorageAndClonesDoNot) {
    const Tensor x = counting({4, 3});
    const Tensor middle = x.rows(1, 3);
    EXPECT_EQ(middle.shape(), (Shape{2, 3}));
    EXPECT_EQ(values(middle), (std::vector<double>{3, 4, 5, 6, 7, 8}));
    const Tensor flat = x.view({12});
    const Tensor copy_of_x = x.clone();
    fill(middle, -1.0);
    EXPECT_EQ(values(flat), (std::vector<double>{0, 1, 2, -1, -1, -1, -1, -1, -1, 9, 10, 11}));
    EXPECT_EQ(values(copy_of_x)[3], 3.0);
    EXPECT_EQ(x.rows(4, 4).numel(), 0);
    EXPECT_THROW(x.rows(3, 5), Error);
    EXPECT_THROW(x.rows(2, 1), Error);
    EXPECT_THROW(x.rows(-1, 1), Error);
    EXPECT_THROW(x.view({5}), Error);
}

TEST(Tensors, AViewKeepsItsStorageAlive) {
    Tensor rows = counting({1000, 10}).rows(999, 1000);  // under a sanitizer a freed block would be caught
    EXPECT_EQ(values(rows)[9], 9999.0);
}

TEST(Tensors, ToReturnsItselfForItsOwnTypeAndAConvertedCopyElse) {
    const Tensor x = counting({5});
    EXPECT_EQ(x.to(DType::f32).raw(), x.raw());
    const Tensor y = x.to(DType::bf16);
    EXPECT_EQ(y.dtype(), DType::bf16);
    EXPECT_EQ(values(y), values(x));
}

TEST(Tensors, BorrowedMemoryIsReadInPlaceAndItsOwnerHeld) {
    auto owner = std::make_shared<const std::vector<float>>(std::vector<float>{1, 2, 3, 4});
    const std::weak_ptr<const std::vector<float>> watch = owner;
    Tensor x = Tensor::borrow(owner->data(), {2, 2}, DType::f32, owner);
    EXPECT_EQ(x.raw(), owner->data());
    owner.reset();
    EXPECT_FALSE(watch.expired());
    EXPECT_EQ(values(x), (std::vector<double>{1, 2, 3, 4}));
    x = Tensor();
    EXPECT_TRUE(watch.expired());
}

}  // namespace
}  // namespace uipe::tensor::test
