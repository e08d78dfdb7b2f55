//! The default policy as text: every key with its default and its meaning. A test holds it against the types.

/// What stands above all sections.
pub(super) const HEAD: &str = "\
# The attestation policy of the BlockRemote Appliance. Each key stands here with its default; a file may leave out what
# it does not change. Where a case brings rules of its own (`config`), they win over this file.
";

/// One text for each section of the file.
pub(super) const SECTIONS: &[&str] = &[ANDROID, APPLE, PLAY, TPM, WEBAUTHN];

const ANDROID: &str = r#"[android]
# Where the key must live at least: "trusted_environment" or "strong_box". "software" takes everything, but chains of
# software end in no root that is bundled.
min_security_level = "trusted_environment"
# Whether a verified boot state other than verified is taken, except failed; and an unlocked boot loader.
allow_unverified_boot = false
allow_unlocked = false
# Boot keys (hex) whose owner-signed systems count as verified.
self_signed_boot_keys_hex = []
# The least version of Android as the hardware writes it (140000 is 14), and the least patch levels of the system, of
# the vendor's part and of the boot image as YYYYMM. 0: any, or none stated.
min_os_version = 0
min_os_patch_level = 0
min_vendor_patch_level = 0
min_boot_patch_level = 0
# Packages of which one must have made the key, and SHA-256 (hex) of certificates among which every signer of the app
# must be. Empty: any.
packages = []
signer_digests_hex = []
# Whether several packages that share an identity are taken, any of which could have made the key.
allow_shared_uid = false
# Whether a statement is taken only with a challenge to compare. Off for looking at old evidence; a server always has
# one.
require_challenge = false
# Whether a dated revocation list must be there (without one nothing is revoked), and after how many days a dated one no
# longer clears anybody.
require_status_list = false
status_list_max_age_days = 30
# Whether the members of the statement must stand in the order that the schema says.
require_order = true
"#;

const APPLE: &str = r#"[apple]
# A limit on the environments that are taken: "development" (the receipt says "sandbox") and "production". Left out,
# there is no limit of its own: an attestation must be of the environment that its case names, of production where it
# names none; a receipt of the one that its case names, of any where it names none.
# environments = ["production"]
# How old a receipt may be, in seconds since Apple made it. Apple advises five minutes.
receipt_age_max_s = 300
# How far Apple's clock may be ahead when a receipt says when it was made, in seconds. Certificates get no such grace.
clock_ahead_max_s = 60
"#;

const PLAY: &str = r#"[play]
# The app's package. While it is empty, every token is refused.
package = ""
# SHA-256 of the certificates that sign the app, base64url as in the verdict. A token is refused unless each digest it
# names is one of these; while the list is empty, every token is refused.
certificate_digests = []
# The lowest versionCode that is taken.
min_version = 0
# The oldest verdict that is taken, and how far Google's clock may be ahead, in milliseconds.
max_age_millis = 300000
max_future_millis = 60000
# Labels of deviceRecognitionVerdict that must all be there. A label that is not known here grants nothing.
require_device = ["MEETS_DEVICE_INTEGRITY"]
# Whether appLicensingVerdict must be LICENSED. Off, because an app that a company hands out itself, past the public
# store, is UNLICENSED or UNEVALUATED on honest devices.
require_licensed = false
# Values of playProtectVerdict that refuse. Where the app does not ask for this verdict, nothing is refused.
refuse_play_protect = ["HIGH_RISK"]
# Values of appAccessRiskVerdict.appsDetected that refuse: an app that controls the device is what this appliance is
# there to notice. Where the app does not ask for this verdict, nothing is refused.
refuse_app_risks = ["KNOWN_CONTROLLING", "UNKNOWN_CONTROLLING"]
# Whether a response that a tester configured in the Play Console counts. For a trial installation only.
allow_testing_response = false
"#;

const TPM: &str = r#"[tpm]
# Registers that a quote must cover where the case does not say itself; then more may be quoted.
required_pcrs = [0, 1, 2, 3, 4, 5, 6, 7]
# Whether the registers may be those of the SHA-1 bank.
allow_sha1_bank = false
# Whether the quote's signature may be RSASSA with SHA-1, as old TPMs under Windows make it.
allow_sha1_signature = false
# Whether a quote without a nonce counts. It proves nothing about the present.
allow_empty_nonce = false
# Whether something must bind the attestation key to a TPM: its name as activation found it, or a certificate.
require_ak_binding = false
# Whether a quote with a clock that may have run backwards is refused.
require_safe_clock = true
# Whether the machine may have been started again since the stored counters. Counters that went back are always refused.
allow_reset = false
# Registers and the values that each may have, such as { "7" = ["00ff..."] }; registers not named may have any.
pcr_values = {}
# The same for each model of device, such as { "laptop A" = { "0" = ["00ff..."], "7" = ["00ff..."] } }: where there are
# any, the registers must be those of one of them.
models = {}
# Whether the appliance activates keys beside an endorsement key without a certificate of a trusted maker. Such a proof
# counts no more than a key in software.
allow_unknown_ek = false
# Whether a quote must come with its boot log. A log that comes is always judged.
require_event_log = false
# Whether a boot log must come with registers to compare.
require_pcr_values = false
# Whether the boot log must show that Secure Boot was on, proven by PCR 7.
require_secure_boot = false
# Whether PCR 5 may have, beyond its log, the measurements of ExitBootServices that some firmware forgets to log.
ebs_missing_workaround = false
"#;

const WEBAUTHN: &str = r#"[webauthn]
# Statement formats that count. Leave "none" out to demand attestation.
formats = ["none", "packed", "tpm", "android-key", "apple", "fido-u2f"]
# Whether "packed" may be signed by the credential itself, which proves no make. Unless it is said here: yes, but not
# for people's passkeys where these must show their make (webauthn.require_attestation).
# allow_self_attestation = true
# Whether certificates must lead to a known root. Where a root is known they must lead there in any case. Unless it is
# said here: no, but yes for people's passkeys where these must show their make.
# require_trusted_chain = false
# Whether a PIN, a fingerprint or the like is demanded.
require_user_verification = false
# Whether a frame of another origin may hold the ceremony. On, because a statement says the same of its authenticator
# wherever it was asked for. Passkeys of people follow a rule of their own, which allows no frames.
allow_cross_origin = true
# Whether a "tpm" statement may be signed with RSASSA and SHA-1, as Windows Hello does; certificates never may.
allow_tpm_rs1 = true
# Vendors of TPMs that count, as eight hexadecimal digits such as "494E5443"; empty: any.
tpm_vendors = []
# Whether an "android-key" must be in secure hardware, with origin and purpose on its word. Unless it is said here: no,
# but yes for people's passkeys where these must show their make.
# require_android_hardware = false
# Models that count, as 32 hexadecimal digits; empty: any. Only a trusted chain proves a model.
aaguids = []
"#;
