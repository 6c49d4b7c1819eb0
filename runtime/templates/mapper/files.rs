const TEMPLATES: (&[File], &[File], &[File]) = (&[], &[], &[]);
