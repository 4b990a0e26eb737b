//! Programs as text, and their verifier.

#![allow(clippy::unwrap_used)]

use bakelite_host::{Class, DType, Instr, Program, Pw, Scalar};
use proptest::prelude::*;

fn scalar() -> impl Strategy<Value = Scalar> {
    prop_oneof![
        any::<f32>().prop_filter("NaN is not equal to itself", |v| !v.is_nan()).prop_map(Scalar::F32),
        any::<f64>().prop_filter("NaN is not equal to itself", |v| !v.is_nan()).prop_map(Scalar::F64),
        any::<i64>().prop_map(Scalar::I64),
        any::<bool>().prop_map(Scalar::Bool),
        Just(Scalar::F32(f32::INFINITY)),
        Just(Scalar::F64(f64::NEG_INFINITY)),
    ]
}

fn dtype() -> impl Strategy<Value = DType> {
    (0..DType::ALL.len()).prop_map(|i| DType::ALL[i])
}

fn instr() -> impl Strategy<Value = Instr> {
    prop_oneof![
        scalar().prop_map(Instr::Const),
        (dtype(), any::<u16>()).prop_map(|(d, r)| Instr::Cast(d, r)),
        (0..Pw::ALL.len(), proptest::collection::vec(any::<u16>(), 0..4))
            .prop_map(|(op, args)| Instr::Apply(Pw::ALL[op], args)),
    ]
}

proptest! {
    #[test]
    fn text_round_trips(
        inputs in proptest::collection::vec(dtype(), 0..5),
        code in proptest::collection::vec(instr(), 0..8),
        outputs in proptest::collection::vec((any::<u16>(), dtype()), 0..3),
    ) {
        let program = Program { inputs, code, outputs };
        let text = program.to_string();
        prop_assert_eq!(text.parse::<Program>().map_err(TestCaseError::fail)?, program);
    }

    #[test]
    fn any_text_is_refused_without_panic(text in "[(){}%;:>= 0-9a-z.-]{0,40}") {
        let _ = text.parse::<Program>();
    }

    #[test]
    fn any_program_is_verified_without_panic(
        inputs in proptest::collection::vec(dtype(), 0..3),
        code in proptest::collection::vec(instr(), 0..4),
        outputs in proptest::collection::vec((0u16..6, dtype()), 0..2),
    ) {
        let _ = Program { inputs, code, outputs }.classes();
    }
}

#[test]
fn the_documented_form_parses() {
    let text = "(f32, f16) { %2 = add %0 %1; %3 = relu %2 } -> %3:f16";
    let program: Program = text.parse().unwrap();
    assert_eq!(program.to_string(), text);
    assert_eq!(program.classes(), Ok(vec![Class::F32; 4]));
    assert!("(f32) { } -> %0:f32".parse::<Program>().unwrap().is_identity());
    let nan: Program = "() { %0 = NaNf32 } -> %0:f32".parse().unwrap();
    assert_eq!(nan.to_string(), "() { %0 = NaNf32 } -> %0:f32");
}

#[test]
fn text_errors_say_what_is_wrong() {
    for (text, want) in [
        ("f32 { } ->", "not of the form"),
        ("(f31) { } ->", "unknown element type `f31`"),
        ("(f32) { %2 = neg %0 } ->", "where %1 is next"),
        ("(f32) { %1 = negate %0 } ->", "unknown pointwise operator `negate`"),
        ("(f32) { %1 = neg 0 } ->", "`0` is no register"),
        ("(f32) { %1 = cast %0 } ->", "cast TYPE"),
        ("(f32) { neg %0 } ->", "defines no register"),
        ("(f32) { %1 = 1.5.2f32 } ->", "is no f32"),
        ("(f32) { } -> %0", "is no `%register:type`"),
    ] {
        let got = text.parse::<Program>().unwrap_err();
        assert!(got.contains(want), "{text}: {got}");
    }
}

#[test]
fn the_verifier_names_the_fault() {
    for (text, want) in [
        ("(f32) { %1 = add %0 %1 } -> %1:f32", "%1 uses %1, which is not defined before it"),
        ("(f32) { %1 = add %0 } -> %1:f32", "add takes 2 operands, not 1"),
        ("(f32, f64) { %2 = add %0 %1 } -> %2:f32", "differ in class"),
        ("(i32) { %1 = exp %0 } -> %1:i32", "exp is not defined for I64"),
        ("(f32, f32) { %2 = select %0 %1 %1 } -> %2:f32", "is F32, not Bool"),
        ("(f32) { } -> %3:f32", "output %3 is not defined"),
        ("(f32) { } -> %0:i32", "cast it first"),
        ("(f32) { %1 = cast i32 %7 } -> %0:f32", "%1 uses %7"),
    ] {
        let got = text.parse::<Program>().unwrap().classes().unwrap_err();
        assert!(got.contains(want), "{text}: {got}");
    }
}
