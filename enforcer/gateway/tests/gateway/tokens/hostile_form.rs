//! Tokens that are no tokens, or not their issuer's.

use enforcer_gateway::identity::token::TokenError;

use crate::tokens::{
    issuer::{SigningKey, base64url, claims},
    trust::{Trust, with},
};

/// Another letter, which differs only in bits that the encoding does not use.
fn with_unused_bits(part: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    assert_ne!(part.len() % 4, 0, "the last letter has unused bits");
    let last = part.as_bytes()[part.len() - 1];
    let value = ALPHABET.iter().position(|&letter| letter == last).unwrap();
    format!("{}{}", &part[..part.len() - 1], char::from(ALPHABET[value | 1]))
}

#[tokio::test]
async fn hostile_forms_are_refused() {
    let key = SigningKey::es256("e");
    let trust = Trust::in_keys(&[&key]).await;
    // So long that the encodings of header and claims have unused bits.
    let header = with(key.header(), "x", "");
    let good = key.token(&header, &with(claims(), "x", "12"));
    assert!(trust.verify(&good).is_ok());
    let parts: Vec<&str> = good.split('.').collect();
    let [header_part, claims_part, signature] = parts[..] else {
        panic!("a token has three parts");
    };
    let resigned = |header: &str, claims: &str| {
        let message = format!("{header}.{claims}");
        format!("{message}.{}", base64url(key.sign(message.as_bytes())))
    };
    let flipped = format!(
        "{}{}",
        if signature.starts_with('A') { 'B' } else { 'A' },
        &signature[1..]
    );
    let huge = key.token(&key.header(), &with(claims(), "x", "x".repeat(8000)));
    let zeroes = base64url([0; 64]);
    for (what, token, error) in [
        ("nothing", String::new(), TokenError::Malformed),
        ("dots", "..".to_owned(), TokenError::Malformed),
        (
            "no signature",
            format!("{header_part}.{claims_part}"),
            TokenError::Malformed,
        ),
        (
            "an empty signature",
            format!("{header_part}.{claims_part}."),
            TokenError::Malformed,
        ),
        (
            "an empty header",
            format!(".{claims_part}.{signature}"),
            TokenError::NotJson,
        ),
        ("four parts", format!("{good}.x"), TokenError::Malformed),
        (
            "five parts, as if encrypted",
            format!("{good}.x.y"),
            TokenError::Malformed,
        ),
        ("a dot behind", format!("{good}."), TokenError::Malformed),
        ("garbage behind", format!("{good}AAAA"), TokenError::Signature),
        ("a line end", format!("{good}\n"), TokenError::Malformed),
        ("a space in front", format!(" {good}"), TokenError::Malformed),
        ("a padded signature", format!("{good}=="), TokenError::Malformed),
        (
            "a padded header",
            resigned(&format!("{header_part}="), claims_part),
            TokenError::Malformed,
        ),
        (
            "padded claims",
            resigned(header_part, &format!("{claims_part}=")),
            TokenError::Malformed,
        ),
        (
            "standard letters",
            resigned(header_part, &format!("{claims_part}++//")),
            TokenError::Malformed,
        ),
        (
            "unused bits in the header",
            resigned(&with_unused_bits(header_part), claims_part),
            TokenError::Malformed,
        ),
        (
            "unused bits in the claims",
            resigned(header_part, &with_unused_bits(claims_part)),
            TokenError::Malformed,
        ),
        (
            "unused bits in the signature",
            format!("{header_part}.{claims_part}.{}", with_unused_bits(signature)),
            TokenError::Malformed,
        ),
        (
            "a changed signature",
            format!("{header_part}.{claims_part}.{flipped}"),
            TokenError::Signature,
        ),
        (
            "a signature of zeroes",
            format!("{header_part}.{claims_part}.{zeroes}"),
            TokenError::Signature,
        ),
        (
            "a short signature",
            format!("{header_part}.{claims_part}.AAAA"),
            TokenError::Signature,
        ),
        (
            "another's signature",
            SigningKey::es256("e").token(&header, &claims()),
            TokenError::Signature,
        ),
        (
            "another's claims",
            format!(
                "{header_part}.{}.{signature}",
                base64url(with(claims(), "sub", "bob").to_string())
            ),
            TokenError::Signature,
        ),
        ("huge", huge, TokenError::TooLong),
        (
            "beyond ASCII",
            format!("{header_part}.{claims_part}.ä"),
            TokenError::Malformed,
        ),
    ] {
        assert_eq!(trust.verify(&token), Err(error), "{what}");
    }
}

#[tokio::test]
async fn a_public_key_is_no_shared_secret() {
    use aws_lc_rs::hmac;
    let keys = [SigningKey::es256("e"), SigningKey::rs256("r")];
    let trust = Trust::in_keys(&keys.each_ref()).await;
    for key in &keys {
        let header = with(key.header(), "alg", "HS256").to_string();
        let message = format!("{}.{}", base64url(header), base64url(claims().to_string()));
        let secret = hmac::Key::new(hmac::HMAC_SHA256, key.public());
        let token = format!("{message}.{}", base64url(hmac::sign(&secret, message.as_bytes())));
        assert_eq!(trust.verify(&token), Err(TokenError::Unsigned));
    }
}

#[tokio::test]
async fn no_letter_of_a_token_can_be_changed() {
    let key = SigningKey::eddsa("d");
    let trust = Trust::in_keys(&[&key]).await;
    let token = key.good_token();
    assert!(trust.verify(&token).is_ok());
    for position in 0..token.len() {
        let letter = if token.as_bytes()[position] == b'x' {
            "y"
        } else {
            "x"
        };
        let mut changed = token.clone();
        changed.replace_range(position..=position, letter);
        assert!(trust.verify(&changed).is_err(), "{position}: {changed}");
        assert!(trust.verify(&token[..position]).is_err(), "cut at {position}");
    }
}
